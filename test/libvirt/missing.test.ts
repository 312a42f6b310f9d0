// Without libvirt, and with one that is older than what is asked of it.
import { fork, spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

/** What the child tells whose dynamic linker looks into `folder` first. */
function inChild(folder: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, LD_LIBRARY_PATH: folder }
    const child = fork(fileURLToPath(new URL('other-library.ts', import.meta.url)), [], { env })
    child.once('message', resolve)
    child.once('exit', (code, signal) => reject(new Error(`the child ended with ${signal ?? code}`)))
  })
}

t.test('no libvirt: everything loads, and a call says what to install', async t => {
  const folder = t.testdir()
  for (const name of ['', '-qemu', '-lxc', '-admin']) writeFileSync(path.join(folder, `libvirt${name}.so.0`), '')
  const missing = { name: 'LibvirtError', code: 'LIBVIRT_MISSING', message: /apt-get install libvirt0/, caller: true }
  t.match(await inChild(folder), {
    version: missing,
    supports: [false, false],
    getVersion: missing,
    open: missing,
    old: missing,
    admin: missing
  })
})

// The few functions that loading takes, and a connection that can do nothing.
const stub = `
#include <unistd.h>
int virInitialize(void) { return 0; }
int virGetVersion(unsigned long *version, const char *type, unsigned long *typed) { *version = 4002001; return 0; }
void virSetErrorFunc(void *data, void *function) {}
int virEventRegisterDefaultImpl(void) { return 0; }
int virEventRunDefaultImpl(void) { usleep(10000); return 0; }
int virEventAddTimeout(int timeout, void *callback, void *opaque, void *free) { return 1; }
void virEventUpdateTimeout(int timer, int timeout) {}
int virEventRemoveTimeout(int timer) { return 0; }
void *virGetLastError(void) { return 0; }
void virResetLastError(void) {}
void *virConnectOpen(const char *name) { static int connection; return &connection; }
int virConnectRef(void *connection) { return 0; }
int virConnectClose(void *connection) { return 0; }
`

const compiler = ['cc', 'gcc', 'clang'].find(name => spawnSync(name, ['--version']).status === 0) ?? ''
const skip = compiler === '' ? 'there is no C compiler' : false

t.test('an older libvirt: a function that it lacks names the version that has it', { skip }, async t => {
  const folder = t.testdir()
  writeFileSync(path.join(folder, 'stub.c'), stub)
  const args = ['-shared', '-fPIC', '-o', path.join(folder, 'libvirt.so.0'), path.join(folder, 'stub.c')]
  const { status, stderr } = spawnSync(compiler, args, { encoding: 'utf8' })
  t.equal(status, 0, stderr)
  t.match(await inChild(folder), {
    version: 4_002_001,
    supports: [true, false],
    getVersion: 4_002_001,
    open: 'object',
    old: {
      name: 'LibvirtError',
      code: 'LIBVIRT_TOO_OLD',
      message: /virConnectGetStoragePoolCapabilities.*5\.2\.0.*4\.2\.1/,
      caller: true
    }
  })
})
