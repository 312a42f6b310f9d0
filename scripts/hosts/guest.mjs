// Guests for the hosts: Linux with a prompt and a service, and disks.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ToolError } from '../shared/error.mjs'
import { guestImage } from './image.mjs'
import { must } from '../shared/process.mjs'

const escapes = { '<': '&lt;', '>': '&gt;', '&': '&amp;', "'": '&apos;', '"': '&quot;' }
const escape = text => String(text).replace(/[<>&'"]/g, character => escapes[character])

/** What the guest says on its console when it waits for a command. */
export const prompt = 'guest# '

/** The port on which the guest numbers and returns the lines of each connection. */
export const servicePort = 7

let made = 0

class LinuxGuest {
  constructor(fields) {
    Object.assign(this, fields)
  }

  get console() {
    try {
      return readFileSync(this.consoleLog, 'latin1')
    } catch {
      return ''
    }
  }

  async waitFor(text = prompt, { from = 0, timeout = 60_000 } = {}) {
    const deadline = Date.now() + timeout
    for (;;) {
      const { console } = this
      const at = console.indexOf(text, from)
      if (at >= 0) return at + text.length
      if (Date.now() > deadline) {
        const end = console.slice(-500)
        throw new ToolError(`${this.name} has not said ${JSON.stringify(text)} in ${timeout / 1000} s. Its console ends:\n${end}`)
      }
      await sleep(20)
    }
  }
}

const diskXml = ({ file, format = 'qcow2', cache = 'none' }, i) => `
    <disk type='file' device='disk'>
      <driver name='qemu' type='${escape(format)}' cache='${escape(cache)}'/>
      <source file='${escape(file)}'/>
      <target dev='vd${String.fromCharCode(97 + i)}' bus='virtio'/>
    </disk>`

export async function linuxGuest({
  hosts,
  name = `guest${made + 1}`,
  memory = 128,
  vcpus = 1,
  disks = [],
  dirty,
  network = true,
  agent = true,
  devices = ''
}) {
  made++
  if (!/^[\w-]+$/.test(name)) throw new ToolError(`A guest's name is of letters, digits, - and _, not "${name}".`)
  const { kernel, initrd } = await guestImage()
  const address = `10.0.1.${((made - 1) % 254) + 1}`
  const mac = `52:54:00:00:01:${(((made - 1) % 254) + 1).toString(16).padStart(2, '0')}`
  const consoleLog = path.join(hosts.storage, `${name}.console.log`)
  const words = [
    'console=ttyS0 quiet mitigations=off no_timer_check',
    `guest.name=${name}`,
    ...(network ? [`guest.address=${address}`] : []),
    ...(dirty ? [`guest.dirty=${dirty.mib},${dirty.rate ?? 2}`] : [])
  ]
  const xml = `<domain type='qemu'>
  <name>${name}</name>
  <memory unit='MiB'>${memory}</memory>
  <vcpu>${vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>${escape(kernel)}</kernel>
    <initrd>${escape(initrd)}</initrd>
    <cmdline>${escape(words.join(' '))}</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>${disks.map(diskXml).join('')}${
      network
        ? `
    <interface type='bridge'>
      <mac address='${mac}'/>
      <source bridge='br0'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>`
        : ''
    }
    <serial type='pty'>
      <log file='${escape(consoleLog)}' append='on'/>
      <target port='0'/>
    </serial>
    <console type='pty'><target type='serial' port='0'/></console>${
      agent
        ? `
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>`
        : ''
    }
    <controller type='usb' model='none'/>
    <memballoon model='virtio'/>${devices}
  </devices>
</domain>
`
  return new LinuxGuest({ name, xml, address: network ? address : undefined, mac, consoleLog })
}

/** Makes an empty disk image; resolves with its file. @param size - as qemu-img takes it, '64M' */
export async function blankDisk(file, size = '64M', format = 'qcow2') {
  await must(['qemu-img', 'create', '-q', '-f', format, file, size])
  return file
}
