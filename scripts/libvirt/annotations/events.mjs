// The events, by the constants of their ids: the callback's type, and the enums of its arguments.

/** family: { the enum of ids: { id: [our name, callback type, since, enums of arguments] } }. */
export const events = {
  domain: {
    ids: 'virDomainEventID',
    prefix: 'VIR_DOMAIN_EVENT_ID_',
    events: {
      LIFECYCLE: ['lifecycle', 'virConnectDomainEventCallback', { event: 'virDomainEventType' }],
      REBOOT: ['reboot', 'virConnectDomainEventGenericCallback'],
      RTC_CHANGE: ['rtcChange', 'virConnectDomainEventRTCChangeCallback'],
      WATCHDOG: ['watchdog', 'virConnectDomainEventWatchdogCallback', { action: 'virDomainEventWatchdogAction' }],
      IO_ERROR: ['ioError', 'virConnectDomainEventIOErrorCallback', { action: 'virDomainEventIOErrorAction' }],
      GRAPHICS: ['graphics', 'virConnectDomainEventGraphicsCallback', { phase: 'virDomainEventGraphicsPhase' }],
      IO_ERROR_REASON: ['ioErrorReason', 'virConnectDomainEventIOErrorReasonCallback', { action: 'virDomainEventIOErrorAction' }],
      CONTROL_ERROR: ['controlError', 'virConnectDomainEventGenericCallback'],
      BLOCK_JOB: ['blockJob', 'virConnectDomainEventBlockJobCallback', { type: 'virDomainBlockJobType', status: 'virConnectDomainEventBlockJobStatus' }],
      DISK_CHANGE: ['diskChange', 'virConnectDomainEventDiskChangeCallback', { reason: 'virConnectDomainEventDiskChangeReason' }],
      TRAY_CHANGE: ['trayChange', 'virConnectDomainEventTrayChangeCallback', { reason: 'virDomainEventTrayChangeReason' }],
      PMWAKEUP: ['pmWakeup', 'virConnectDomainEventPMWakeupCallback'],
      PMSUSPEND: ['pmSuspend', 'virConnectDomainEventPMSuspendCallback'],
      BALLOON_CHANGE: ['balloonChange', 'virConnectDomainEventBalloonChangeCallback'],
      PMSUSPEND_DISK: ['pmSuspendDisk', 'virConnectDomainEventPMSuspendDiskCallback'],
      DEVICE_REMOVED: ['deviceRemoved', 'virConnectDomainEventDeviceRemovedCallback'],
      BLOCK_JOB_2: ['blockJob2', 'virConnectDomainEventBlockJobCallback', { type: 'virDomainBlockJobType', status: 'virConnectDomainEventBlockJobStatus' }],
      TUNABLE: ['tunable', 'virConnectDomainEventTunableCallback'],
      AGENT_LIFECYCLE: [
        'agentLifecycle',
        'virConnectDomainEventAgentLifecycleCallback',
        { state: 'virConnectDomainEventAgentLifecycleState', reason: 'virConnectDomainEventAgentLifecycleReason' }
      ],
      DEVICE_ADDED: ['deviceAdded', 'virConnectDomainEventDeviceAddedCallback'],
      MIGRATION_ITERATION: ['migrationIteration', 'virConnectDomainEventMigrationIterationCallback'],
      JOB_COMPLETED: ['jobCompleted', 'virConnectDomainEventJobCompletedCallback'],
      DEVICE_REMOVAL_FAILED: ['deviceRemovalFailed', 'virConnectDomainEventDeviceRemovalFailedCallback'],
      METADATA_CHANGE: ['metadataChange', 'virConnectDomainEventMetadataChangeCallback', { type: 'virDomainMetadataType' }],
      BLOCK_THRESHOLD: ['blockThreshold', 'virConnectDomainEventBlockThresholdCallback'],
      MEMORY_FAILURE: [
        'memoryFailure',
        'virConnectDomainEventMemoryFailureCallback',
        {
          recipient: 'virDomainMemoryFailureRecipientType',
          action: 'virDomainMemoryFailureActionType',
          flags: 'virDomainMemoryFailureFlags'
        }
      ],
      MEMORY_DEVICE_SIZE_CHANGE: ['memoryDeviceSizeChange', 'virConnectDomainEventMemoryDeviceSizeChangeCallback']
    }
  },
  network: {
    ids: 'virNetworkEventID',
    prefix: 'VIR_NETWORK_EVENT_ID_',
    events: { LIFECYCLE: ['lifecycle', 'virConnectNetworkEventLifecycleCallback', { event: 'virNetworkEventLifecycleType' }] }
  },
  storage_pool: {
    ids: 'virStoragePoolEventID',
    prefix: 'VIR_STORAGE_POOL_EVENT_ID_',
    events: {
      LIFECYCLE: ['lifecycle', 'virConnectStoragePoolEventLifecycleCallback', { event: 'virStoragePoolEventLifecycleType' }],
      REFRESH: ['refresh', 'virConnectStoragePoolEventGenericCallback']
    }
  },
  node_device: {
    ids: 'virNodeDeviceEventID',
    prefix: 'VIR_NODE_DEVICE_EVENT_ID_',
    events: {
      LIFECYCLE: ['lifecycle', 'virConnectNodeDeviceEventLifecycleCallback', { event: 'virNodeDeviceEventLifecycleType' }],
      UPDATE: ['update', 'virConnectNodeDeviceEventGenericCallback']
    }
  },
  secret: {
    ids: 'virSecretEventID',
    prefix: 'VIR_SECRET_EVENT_ID_',
    events: {
      LIFECYCLE: ['lifecycle', 'virConnectSecretEventLifecycleCallback', { event: 'virSecretEventLifecycleType' }],
      VALUE_CHANGED: ['valueChanged', 'virConnectSecretEventGenericCallback']
    }
  },
  qemu_monitor: { events: { 0: ['qemuMonitor', 'virConnectDomainQemuMonitorEventCallback', {}, '1.2.3'] } },
  close: { events: { 0: ['close', 'virConnectCloseFunc', { reason: 'virConnectCloseReason' }, '0.10.0'] } },
  adm_close: { events: { 0: ['close', 'virAdmConnectCloseFunc', { reason: 'virConnectCloseReason' }, '2.0.0'] } }
}
