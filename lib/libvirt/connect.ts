// A connection to a hypervisor: how it is opened, and its callbacks for events.
import { addon } from './addon.js'
import type { Domain } from './domain.js'
import { LibvirtError, libvirtErrors } from './errors.js'
import { connectEvents, type AnyEvent, type DroppedEvents, type EventKind, type EventOptions, type EventStream } from './events.js'
import { ConnectApi } from './generated/connect.js'
import { ConnectCredentialType, ConnectFlags } from './generated/enums.js'
import {
  domainEventIds,
  networkEventIds,
  nodeDeviceEventIds,
  secretEventIds,
  storagePoolEventIds,
  type CloseEventArgs,
  type DomainEventArgs,
  type NetworkEventArgs,
  type NodeDeviceEventArgs,
  type QemuMonitorEventArgs,
  type SecretEventArgs,
  type StoragePoolEventArgs
} from './generated/events.js'
import type { Network } from './network.js'
import type { NodeDevice } from './node_device.js'
import { deregister, EventFamily, register, type LibvirtEvent } from './registration.js'
import { createDomain, type CreateDomainOptions } from './lifecycle.js'
import { restore, type RestoreOptions } from './save.js'
import type { Secret } from './secret.js'
import type { DomainSpec } from './spec.js'
import { watchStats, type StatsOptions, type StatsSample } from './stats.js'
import type { StoragePool } from './storage_pool.js'

/**
 * Something that libvirt asks for when a connection needs credentials.
 *
 * @since 0.1.0
 */
export interface CredentialRequest {
  /** What is asked for, one of `ConnectCredentialType`. */
  type: ConnectCredentialType
  /** The question, for a human. */
  prompt: string
  /** What is to be answered, where the kind of credential has that. */
  challenge: string | undefined
  /** What holds when nothing is answered. */
  default: string | undefined
}

/**
 * How a connection is opened.
 *
 * @since 0.1.0
 */
export interface ConnectOptions {
  /** True: a connection that cannot change anything. */
  readOnly?: boolean
  /** False: the URI as it is, without the aliases of libvirt's configuration. */
  aliases?: boolean
  /**
   * Is asked when the other side wants credentials, and answers in the order of the questions; an undefined
   * answer stands for the default. Null gives up, and so does what it throws: that is the `cause` of the error.
   */
  auth?: (requests: CredentialRequest[]) => Promise<(string | undefined)[] | null>
  /** What `auth` can answer; all kinds if left out. */
  credentials?: readonly ConnectCredentialType[]
  /** Signs of life: each `interval` seconds, closed after `count` without an answer (5 if left out). */
  keepalive?: { interval: number; count?: number }
}

/** As the addon knows it: libvirt may ask for more kinds than there are in `ConnectCredentialType`. */
type NativeAuthentication = Parameters<typeof addon.libvirtOpen>[2]

/**
 * A connection to a hypervisor.
 *
 * ```ts
 * await using connect = await Connect.open('qemu:///system')
 * for (const domain of await connect.listAllDomains()) console.log(await domain.getName())
 * ```
 *
 * @since 0.1.0
 */
export class Connect extends ConnectApi {
  /**
   * Connects to a hypervisor.
   *
   * @param uri - for example `'qemu:///system'` or `'qemu+tls://host/system'`; undefined: what the environment or libvirt chooses
   * @throws LibvirtError
   * @see [virConnectOpenAuth](https://libvirt.org/html/libvirt-libvirt-host.html#virConnectOpenAuth)
   * @since 0.1.0; libvirt 0.4.0
   */
  static async open(uri?: string, options: ConnectOptions = {}): Promise<Connect> {
    const flags = (options.readOnly ? ConnectFlags.RO : 0) | (options.aliases === false ? ConnectFlags.NO_ALIASES : 0)
    const { auth, keepalive } = options
    let thrown: { cause: unknown } | undefined
    const asked: typeof auth =
      typeof auth === 'function'
        ? async requests => {
            thrown = undefined
            try {
              return await auth(requests)
            } catch (cause) {
              thrown = { cause }
              throw cause
            }
          }
        : auth
    const connect = (await libvirtErrors(() =>
      addon.libvirtOpen(uri ?? null, flags, asked as NativeAuthentication, [...(options.credentials ?? Object.values(ConnectCredentialType))])
    ).catch((error: unknown) => {
      if (thrown && error instanceof LibvirtError)
        Object.defineProperty(error, 'cause', { value: thrown.cause, writable: true, configurable: true })
      throw error
    })) as Connect
    if (keepalive)
      try {
        await connect.setKeepAlive(keepalive.interval, keepalive.count ?? 5)
      } catch (error) {
        await connect.close()
        throw error
      }
    return connect
  }

  /**
   * Events as an async iterable, until the connection is closed or the iteration is left.
   *
   * @param kinds - for example `'domain.lifecycle'`, or several
   * @since 0.1.0
   */
  events<K extends EventKind>(
    kinds: K | readonly K[],
    options: EventOptions = {}
  ): EventStream<Extract<AnyEvent, { kind: K }> | DroppedEvents> {
    return connectEvents(this, kinds, options)
  }

  /**
   * Makes a domain, and starts it.
   *
   * @param of - its XML, or in a few words
   * @throws LibvirtError
   * @see [virDomainDefineXMLFlags](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainDefineXMLFlags),
   * [virDomainCreateXML](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainCreateXML)
   * @since 0.1.0
   */
  async createDomain(of: string | DomainSpec, options: CreateDomainOptions = {}): Promise<Domain> {
    return createDomain(this, of, options)
  }

  /**
   * Goes on with a domain that {@link Domain.saveTo} has saved.
   *
   * @param file - on the host
   * @throws LibvirtError, or the signal's reason
   * @see [virDomainRestoreFlags](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainRestoreFlags)
   * @since 0.1.0
   */
  restoreFrom(file: string, options: RestoreOptions = {}): Promise<Domain> {
    return restore(this, file, options)
  }

  /**
   * What the domains do, again and again; nothing is asked while nobody takes it.
   *
   * @throws LibvirtError, or the signal's reason
   * @see [virConnectGetAllDomainStats](https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectGetAllDomainStats)
   * @since 0.1.0; libvirt 1.2.8
   */
  watchStats(options: StatsOptions = {}): AsyncGenerator<StatsSample, void, void> {
    return watchStats(this, options)
  }

  /**
   * Calls `callback` once when the connection is lost; closing it here does not call it.
   *
   * @returns a number for {@link unregisterCloseCallback}
   * @throws LibvirtError
   * @see [virConnectRegisterCloseCallback](https://libvirt.org/html/libvirt-libvirt-host.html#virConnectRegisterCloseCallback)
   * @since 0.1.0; libvirt 0.10.0
   */
  registerCloseCallback(callback: (event: LibvirtEvent<undefined, CloseEventArgs['close']>) => void): Promise<number> {
    return register({ family: EventFamily.close, id: 0, connect: this, callback })
  }

  /**
   * Takes a close callback back.
   *
   * @param id - what {@link registerCloseCallback} gave
   * @see [virConnectUnregisterCloseCallback](https://libvirt.org/html/libvirt-libvirt-host.html#virConnectUnregisterCloseCallback)
   * @since 0.1.0; libvirt 0.10.0
   */
  unregisterCloseCallback(id: number): Promise<void> {
    return deregister(id)
  }

  /**
   * Calls `callback` when a domain starts, stops, is defined and so on: the older way for
   * {@link domainEventRegisterAny} with `'lifecycle'`.
   *
   * @returns a number for {@link domainEventDeregister}
   * @throws LibvirtError
   * @see [virConnectDomainEventRegister](https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectDomainEventRegister)
   * @since 0.1.0; libvirt 0.5.0
   */
  domainEventRegister(callback: (event: LibvirtEvent<Domain, DomainEventArgs['lifecycle']>) => void): Promise<number> {
    return this.domainEventRegisterAny(undefined, 'lifecycle', callback)
  }

  /**
   * Ends the calls of a callback. A number that is none is fine.
   *
   * @param id - what {@link domainEventRegister} gave
   * @see [virConnectDomainEventDeregister](https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectDomainEventDeregister)
   * @since 0.1.0; libvirt 0.5.0
   */
  domainEventDeregister(id: number): Promise<void> {
    return this.domainEventDeregisterAny(id)
  }

  /**
   * Calls `callback` for each event of one kind, of one domain or of all.
   *
   * @param domain - the domain; undefined: all of this connection
   * @param event - the kind of event
   * @param callback - is called on the JavaScript thread, in the order of the events
   * @returns a number for {@link domainEventDeregisterAny}
   * @throws LibvirtError
   * @see [virConnectDomainEventRegisterAny](https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectDomainEventRegisterAny)
   * @since 0.1.0; libvirt 0.8.0
   */
  domainEventRegisterAny<N extends keyof DomainEventArgs>(
    domain: Domain | undefined,
    event: N,
    callback: (event: LibvirtEvent<Domain, DomainEventArgs[N]>) => void
  ): Promise<number> {
    return register({
      family: EventFamily.domain,
      id: domainEventIds[event],
      connect: this,
      object: domain,
      callback
    })
  }

  /**
   * Ends the calls of a callback. A number that is none is fine.
   *
   * @param id - what {@link domainEventRegisterAny} gave
   * @see [virConnectDomainEventDeregisterAny](https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectDomainEventDeregisterAny)
   * @since 0.1.0; libvirt 0.8.0
   */
  domainEventDeregisterAny(id: number): Promise<void> {
    return deregister(id)
  }

  /**
   * Calls `callback` for each event of one kind, of one virtual network or of all.
   *
   * @param network - the virtual network; undefined: all of this connection
   * @param event - the kind of event
   * @param callback - is called on the JavaScript thread, in the order of the events
   * @returns a number for {@link networkEventDeregisterAny}
   * @throws LibvirtError
   * @see [virConnectNetworkEventRegisterAny](https://libvirt.org/html/libvirt-libvirt-network.html#virConnectNetworkEventRegisterAny)
   * @since 0.1.0; libvirt 1.2.1
   */
  networkEventRegisterAny<N extends keyof NetworkEventArgs>(
    network: Network | undefined,
    event: N,
    callback: (event: LibvirtEvent<Network, NetworkEventArgs[N]>) => void
  ): Promise<number> {
    return register({
      family: EventFamily.network,
      id: networkEventIds[event],
      connect: this,
      object: network,
      callback
    })
  }

  /**
   * Ends the calls of a callback. A number that is none is fine.
   *
   * @param id - what {@link networkEventRegisterAny} gave
   * @see [virConnectNetworkEventDeregisterAny](https://libvirt.org/html/libvirt-libvirt-network.html#virConnectNetworkEventDeregisterAny)
   * @since 0.1.0; libvirt 1.2.1
   */
  networkEventDeregisterAny(id: number): Promise<void> {
    return deregister(id)
  }

  /**
   * Calls `callback` for each event of one kind, of one storage pool or of all.
   *
   * @param pool - the storage pool; undefined: all of this connection
   * @param event - the kind of event
   * @param callback - is called on the JavaScript thread, in the order of the events
   * @returns a number for {@link storagePoolEventDeregisterAny}
   * @throws LibvirtError
   * @see [virConnectStoragePoolEventRegisterAny](https://libvirt.org/html/libvirt-libvirt-storage.html#virConnectStoragePoolEventRegisterAny)
   * @since 0.1.0; libvirt 2.0.0
   */
  storagePoolEventRegisterAny<N extends keyof StoragePoolEventArgs>(
    pool: StoragePool | undefined,
    event: N,
    callback: (event: LibvirtEvent<StoragePool, StoragePoolEventArgs[N]>) => void
  ): Promise<number> {
    return register({
      family: EventFamily.storagePool,
      id: storagePoolEventIds[event],
      connect: this,
      object: pool,
      callback
    })
  }

  /**
   * Ends the calls of a callback. A number that is none is fine.
   *
   * @param id - what {@link storagePoolEventRegisterAny} gave
   * @see [virConnectStoragePoolEventDeregisterAny](https://libvirt.org/html/libvirt-libvirt-storage.html#virConnectStoragePoolEventDeregisterAny)
   * @since 0.1.0; libvirt 2.0.0
   */
  storagePoolEventDeregisterAny(id: number): Promise<void> {
    return deregister(id)
  }

  /**
   * Calls `callback` for each event of one kind, of one host device or of all.
   *
   * @param device - the host device; undefined: all of this connection
   * @param event - the kind of event
   * @param callback - is called on the JavaScript thread, in the order of the events
   * @returns a number for {@link nodeDeviceEventDeregisterAny}
   * @throws LibvirtError
   * @see [virConnectNodeDeviceEventRegisterAny](https://libvirt.org/html/libvirt-libvirt-nodedev.html#virConnectNodeDeviceEventRegisterAny)
   * @since 0.1.0; libvirt 2.2.0
   */
  nodeDeviceEventRegisterAny<N extends keyof NodeDeviceEventArgs>(
    device: NodeDevice | undefined,
    event: N,
    callback: (event: LibvirtEvent<NodeDevice, NodeDeviceEventArgs[N]>) => void
  ): Promise<number> {
    return register({
      family: EventFamily.nodeDevice,
      id: nodeDeviceEventIds[event],
      connect: this,
      object: device,
      callback
    })
  }

  /**
   * Ends the calls of a callback. A number that is none is fine.
   *
   * @param id - what {@link nodeDeviceEventRegisterAny} gave
   * @see [virConnectNodeDeviceEventDeregisterAny](https://libvirt.org/html/libvirt-libvirt-nodedev.html#virConnectNodeDeviceEventDeregisterAny)
   * @since 0.1.0; libvirt 2.2.0
   */
  nodeDeviceEventDeregisterAny(id: number): Promise<void> {
    return deregister(id)
  }

  /**
   * Calls `callback` for each event of one kind, of one secret or of all.
   *
   * @param secret - the secret; undefined: all of this connection
   * @param event - the kind of event
   * @param callback - is called on the JavaScript thread, in the order of the events
   * @returns a number for {@link secretEventDeregisterAny}
   * @throws LibvirtError
   * @see [virConnectSecretEventRegisterAny](https://libvirt.org/html/libvirt-libvirt-secret.html#virConnectSecretEventRegisterAny)
   * @since 0.1.0; libvirt 3.0.0
   */
  secretEventRegisterAny<N extends keyof SecretEventArgs>(
    secret: Secret | undefined,
    event: N,
    callback: (event: LibvirtEvent<Secret, SecretEventArgs[N]>) => void
  ): Promise<number> {
    return register({
      family: EventFamily.secret,
      id: secretEventIds[event],
      connect: this,
      object: secret,
      callback
    })
  }

  /**
   * Ends the calls of a callback. A number that is none is fine.
   *
   * @param id - what {@link secretEventRegisterAny} gave
   * @see [virConnectSecretEventDeregisterAny](https://libvirt.org/html/libvirt-libvirt-secret.html#virConnectSecretEventDeregisterAny)
   * @since 0.1.0; libvirt 3.0.0
   */
  secretEventDeregisterAny(id: number): Promise<void> {
    return deregister(id)
  }

  /**
   * Calls `callback` for events of QEMU's monitor, of one domain or of all. They are QEMU's, not libvirt's: they
   * may change with it.
   *
   * @param domain - the domain; undefined: all of this connection
   * @param event - the name of the event, by a flag a regular expression; undefined: all
   * @param callback - is called on the JavaScript thread, in the order of the events
   * @param flags - an OR of `ConnectDomainQemuMonitorEventRegisterFlags`
   * @returns a number for {@link domainQemuMonitorEventDeregister}
   * @throws LibvirtError
   * @see [virConnectDomainQemuMonitorEventRegister](https://libvirt.org/html/libvirt-libvirt-qemu.html#virConnectDomainQemuMonitorEventRegister)
   * @since 0.1.0; libvirt 1.2.3
   */
  domainQemuMonitorEventRegister(
    domain: Domain | undefined,
    event: string | undefined,
    callback: (event: LibvirtEvent<Domain, QemuMonitorEventArgs['qemuMonitor']>) => void,
    flags = 0
  ): Promise<number> {
    return register({
      family: EventFamily.qemuMonitor,
      id: 0,
      connect: this,
      object: domain,
      name: event,
      flags,
      callback
    })
  }

  /**
   * Ends the calls of a callback. A number that is none is fine.
   *
   * @param id - what {@link domainQemuMonitorEventRegister} gave
   * @see [virConnectDomainQemuMonitorEventDeregister](https://libvirt.org/html/libvirt-libvirt-qemu.html#virConnectDomainQemuMonitorEventDeregister)
   * @since 0.1.0; libvirt 1.2.3
   */
  domainQemuMonitorEventDeregister(id: number): Promise<void> {
    return deregister(id)
  }
}
