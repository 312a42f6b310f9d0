// A connection to the administration of a daemon.
import { AdminConnectApi } from './generated/admin_connect.js'
import { admConnectOpen } from './generated/functions.js'
import { ConnectFlags } from './generated/enums.js'
import type { AdminCloseEventArgs } from './generated/events.js'
import { deregister, EventFamily, register, type LibvirtEvent } from './registration.js'

/**
 * A connection to the administration of a daemon (libvirtd, virtqemud, …).
 *
 * @since 0.1.0
 */
export class AdminConnect extends AdminConnectApi {
  /**
   * Connects to a daemon's administration, which usually takes root.
   *
   * @param uri - for example `'libvirtd:///system'`; undefined: what libvirt chooses
   * @param options - `aliases`: false takes the URI as it is, without the aliases of libvirt's configuration
   * @throws LibvirtError
   * @since 0.1.0; libvirt 2.0.0
   */
  static open(uri?: string, options: { aliases?: boolean } = {}): Promise<AdminConnect> {
    return admConnectOpen(uri, options.aliases === false ? ConnectFlags.NO_ALIASES : 0)
  }

  /**
   * Calls `callback` once when the connection is lost; closing it here does not call it.
   *
   * @returns a number for {@link unregisterCloseCallback}
   * @throws LibvirtError
   * @see [virAdmConnectRegisterCloseCallback](https://libvirt.org/html/libvirt-libvirt-admin.html#virAdmConnectRegisterCloseCallback)
   * @since 0.1.0; libvirt 2.0.0
   */
  registerCloseCallback(
    callback: (event: LibvirtEvent<undefined, AdminCloseEventArgs['close']>) => void
  ): Promise<number> {
    return register({
      family: EventFamily.adminClose,
      id: 0,
      connect: this,
      callback
    })
  }

  /**
   * Takes a close callback back.
   *
   * @param id - what {@link registerCloseCallback} gave
   * @see [virAdmConnectUnregisterCloseCallback](https://libvirt.org/html/libvirt-libvirt-admin.html#virAdmConnectUnregisterCloseCallback)
   * @since 0.1.0; libvirt 2.0.0
   */
  unregisterCloseCallback(id: number): Promise<void> {
    return deregister(id)
  }
}
