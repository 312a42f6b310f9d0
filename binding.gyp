{
  'targets': [{
    'target_name': 'hypertwin',
    'type': 'none',
    'actions': [{
      'action_name': 'build_by_cmake',
      'inputs': [],
      'outputs': ['<(PRODUCT_DIR)/hypertwin.node'],
      'action': ['node', 'scripts/build-native.mjs', '--arch=<(target_arch)', '--config=<(CONFIGURATION_NAME)', '--out=<(PRODUCT_DIR)']
    }]
  }]
}
