// Backups for others to read, and what goes wrong while they begin. libvirt's test driver has none: its part is played here.
import t, { type Test } from 'tap'
import { Connect, Domain, LibvirtError, type BackupExport } from '../../lib/libvirt/index.js'
import { noLibvirt as skip, testHost } from './support.js'

const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

async function begun(t: Test, connect: Connect): Promise<{ domain: Domain; over: Promise<void>; begin: () => Promise<BackupExport> }> {
  const domain = await connect.domainCreateXML(
    `<domain type='test'><name>exported</name><memory>8192</memory><os><type>hvm</type></os><devices>
      <disk type='file' device='disk'><source file='/nowhere/disk'/><target dev='vda' bus='virtio'/></disk>
    </devices></domain>`
  )
  t.teardown(() => domain.close())
  domain.backupBegin = async () => undefined
  // Closed when its events have ended.
  const over = new Promise<void>(resolve => {
    domain.getConnect = async () => {
      const own = await Domain.prototype.getConnect.call(domain)
      own.close = async () => {
        await Connect.prototype.close.call(own)
        resolve()
      }
      return own
    }
  })
  return { domain, over, begin: () => domain.exportBackup({ disks: ['vda'], server: { socket: '/nowhere/socket' } }) }
}

t.test('the domain ends before libvirt has described the backup', { skip }, async t => {
  await using connect = await testHost()
  const { domain, over, begin } = await begun(t, connect)
  const error = new LibvirtError('the domain is not running', { code: 'OPERATION_INVALID' })
  domain.backupGetXMLDesc = async () => {
    await domain.destroy()
    await over
    // A rejection that nobody hears of would end the process here.
    await turn()
    await turn()
    throw error
  }
  await t.rejects(begin(), error)
})

t.test('the domain ends, and with it the backup', { skip }, async t => {
  await using connect = await testHost()
  const { domain, over, begin } = await begun(t, connect)
  domain.backupGetXMLDesc = async () => `<domainbackup mode='pull'>
    <server transport='unix' socket='/nowhere/socket'/><disks><disk name='vda' backup='yes' exportname='vda'/></disks>
  </domainbackup>`
  const exported = await begin()
  // Being transient it is gone then.
  await domain.destroy()
  await t.rejects(exported.ended, { code: 'BACKUP_FAILED', message: /the domain has ended/ })
  await over
  await t.rejects(exported.end(), { code: 'BACKUP_FAILED' }, 'there is nothing left to end')
})

t.test('a backup that cannot be understood is ended', { skip }, async t => {
  await using connect = await testHost()
  const { domain, over, begin } = await begun(t, connect)
  let ended = 0
  domain.backupGetXMLDesc = async () => '<domainbackup'
  domain.abortJob = async () => {
    ended++
    await domain.destroy()
  }
  await t.rejects(begin())
  t.equal(ended, 1)
  await over
  await turn()
})
