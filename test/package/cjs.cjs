// Every subpath can be required from CommonJS, and gives the same as an import does.
const assert = require('node:assert/strict')

for (const subpath of require('./subpaths.json')) {
  const required = require(subpath)
  assert.ok(Object.keys(required).length > 0, `${subpath} exports nothing`)
  import(subpath).then(imported => assert.equal(imported, required))
}
assert.equal(require('hypertwin').version, process.argv[2])
assert.equal(require('hypertwin/package.json').version, process.argv[2])
