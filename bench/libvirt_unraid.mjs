// The side of @unraid/libvirt in bench/libvirt.mjs, as bench/libvirt_python.py; the arguments are its folder and a URI. It has no
// events and no statistics of many domains: it asks each domain.
import path from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { rate } from './figures.mjs'

const { Hypervisor } = await import(pathToFileURL(path.join(process.argv[2], 'dist/index.js')).href)

async function open(uri) {
  const hypervisor = new Hypervisor({ uri })
  await hypervisor.connectOpen()
  return hypervisor
}

const many = {}
const hypervisor = await open(process.argv[3])
const domain = await hypervisor.domainLookupByName('test')
for await (const line of createInterface({ input: process.stdin })) {
  const [command, argument] = line.split(' ')
  let answer
  if (command === 'serial') answer = await rate(Number(argument), 1, () => domain.getInfo())
  else if (command === 'pipelined') answer = await rate(Number(argument), 64, () => domain.getInfo())
  else {
    const other = (many[argument] ??= await open(argument))
    const start = performance.now()
    const domains = await other.connectListAllDomains()
    if (command === 'stats') await Promise.all(domains.map(one => one.getInfo()))
    answer = (performance.now() - start) / 1000
  }
  console.log(answer)
}
