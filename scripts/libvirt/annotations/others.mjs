// Functions of libvirt-qemu, libvirt-lxc and libvirt-admin.

export const qemu = {
  virDomainQemuAgentCommand: [
    "Sends a command (JSON) to the guest's QEMU agent; its answer, JSON as well.",
    { lane: 'slow', returns: 'string failure=null', enums: { timeout: 'virDomainQemuAgentCommandTimeoutValues' } }
  ],
  virDomainQemuAttach: ['Takes a QEMU that was started without libvirt under its control.', { lane: 'slow' }],
  virDomainQemuMonitorCommand: ['Sends a command to the QEMU monitor; its answer.', { lane: 'slow' }],
  virDomainQemuMonitorCommandWithFiles: [
    'Sends a command to the QEMU monitor with file descriptors; its answer, and the descriptors that came with it.',
    {
      lane: 'slow',
      params: {
        infiles: 'in_values scalar=i length=ninfiles nullable',
        noutfiles: 'counter scalar=u',
        outfiles: 'out_list_values scalar=i filled=noutfiles'
      }
    }
  ]
}

export const lxc = {
  virDomainLxcEnterCGroup: ['Moves this whole process into the control groups of a container.'],
  virDomainLxcOpenNamespace: [
    'Opens descriptors of the namespaces of a container; the caller closes them.',
    { params: { fdlist: 'out_list_values scalar=i filled=return' } }
  ]
}

export const admin = {
  virAdmClientClose: ["Disconnects the client from its daemon. (`close()` lets go of this object.)", { method: 'disconnect' }],
  virAdmClientGetID: ["The client's number, which its server gave it.", { returns: 'value scalar=ull failure=maximum' }],
  virAdmClientGetInfo: ['Who the client is: user, process, address, TLS name.', { out: 'AdminClientInfo' }],
  virAdmClientGetTimestamp: ['When the client connected, in seconds since 1970.', { returns: 'value scalar=ll failure=minus_one' }],
  virAdmClientGetTransport: ['How the client is connected.', { returns: 'value scalar=i failure=minus_one enumeration=virClientTransport' }],
  virAdmConnectGetLibVersion: [
    "The version of the daemon's libvirt: major * 1,000,000 + minor * 1,000 + release.",
    { params: { libVer: 'out_value scalar=ull ts=number' } }
  ],
  virAdmConnectGetLoggingFilters: [
    'The filters of what the daemon logs; undefined when there are none.',
    { params: { filters: 'out_string absent' } }
  ],
  virAdmConnectGetLoggingOutputs: [
    'Where the daemon logs to; undefined when it does not.',
    { params: { outputs: 'out_string absent' } }
  ],
  virAdmConnectGetURI: ['The URI of this connection, as libvirt has understood it.'],
  virAdmConnectIsAlive: ['True while the connection works.'],
  virAdmConnectListServers: ['The servers inside the daemon.'],
  virAdmConnectLookupServer: ['Finds a server inside the daemon by its name.'],
  virAdmConnectOpen: ['Opens a connection to a daemon; `AdminConnect.open()` is the usual way.', { lane: 'slow' }],
  virAdmConnectSetDaemonTimeout: ['Sets after how many idle seconds the daemon ends; 0: never.'],
  virAdmConnectSetLoggingFilters: ['Sets the filters of what the daemon logs; undefined: those of its configuration.', { nullable: ['filters'] }],
  virAdmConnectSetLoggingOutputs: ['Sets where the daemon logs to; undefined: what its configuration says.', { nullable: ['outputs'] }],
  virAdmGetVersion: [
    'The version of the loaded libvirt-admin: major * 1,000,000 + minor * 1,000 + release.',
    { params: { libVer: 'out_value scalar=ull ts=number' } }
  ],
  virAdmServerGetClientLimits: ['How many clients the server takes, and how many it has.', { out: 'AdminClientLimits' }],
  virAdmServerGetName: ["The server's name."],
  virAdmServerGetThreadPoolParameters: ["The server's threads and their limits.", { out: 'AdminThreadPoolParams' }],
  virAdmServerListClients: ['The clients of the server.'],
  virAdmServerLookupClient: ['Finds a client of the server by its number.'],
  virAdmServerSetClientLimits: ['Changes how many clients the server takes.', { typed: 'AdminClientLimits' }],
  virAdmServerSetThreadPoolParameters: ["Changes the limits of the server's threads.", { typed: 'AdminThreadPoolParams' }],
  virAdmServerUpdateTlsFiles: ['Makes the server read its TLS certificates again.']
}
