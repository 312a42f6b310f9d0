#!/usr/bin/env node
// The `hypertwin` command: which commands there are, and how each ends. The work is in one file a command,
// loaded when it is asked for, so that --help needs no native code.
import { readFileSync } from 'node:fs'
import process from 'node:process'
import { Command, CommanderError, Help, InvalidArgumentError, Option } from 'commander'
import * as args from './common.js'
import { brokenPipe, CliError, endUnread, Exit, note, toJson } from './common.js'

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE' && !brokenPipe.happened) throw error
  endUnread()
})

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

const program = new Command('hypertwin')
  .description('KVM for Node.js: run, track, record and replay virtual machines')
  .version(version)
  .exitOverride()
  .showSuggestionAfterError(true)
  .configureHelp({ optionDescription: option => `${new Help().optionDescription(option)}${option.mandatory ? ' (required)' : ''}` })
  .configureOutput({
    // One line that says what to do.
    outputError: (text, write) => write(`${text.trim().replace(/\s*\n\s*/g, ' ')} (see --help)\n`)
  })
  .addHelpText(
    'after',
    `
Exit codes: 0 all is well; 1 it failed, or found something wrong; 2 wrong arguments; 3 KVM cannot be used
here (see hypertwin doctor); 130 interrupted.`
  )

/** Loads a command's file and runs it; what it throws becomes a line and an exit code. */
function run<A extends unknown[]>(
  load: () => Promise<(...args: A) => Promise<number | void>>
): (...args: A) => Promise<void> {
  return async (...given) => {
    const options = given.find(
      (value): value is A[number] & { json?: boolean } => typeof value === 'object' && !Array.isArray(value)
    )
    try {
      process.exitCode = (await (await load())(...given)) ?? Exit.ok
    } catch (error) {
      if (!brokenPipe.happened) process.exitCode = await report(error, options?.json === true)
    }
    if (brokenPipe.happened) process.exitCode = brokenPipe.exitCode
  }
}

async function report(error: unknown, json: boolean): Promise<number> {
  if (!(error instanceof Error)) throw error
  const { explain } = await import('./trouble.js')
  const { message, exitCode, code } = explain(error)
  note(message)
  if (json) process.stdout.write(`${toJson({ error: { code, message } })}\n`)
  return exitCode
}

const json = () => new Option('--json', 'print the result as one line of JSON on standard output')
const kvm = () => new Option('--kvm-device <path>', 'the KVM device').default('/dev/kvm').hideHelp()
// Three heartbeats at least.
const silence = () => new Option('--silence <ms>', 'silence that counts as death, at least').argParser(args.integer(6, 600_000))
const memory = (size: string) =>
  new Option('--memory <size>', 'RAM of the machine').argParser(args.memorySize).default(size)

/** `host:port`, or where the host may be left out a port. */
function address(least: number, isHostless = false): (text: string) => string {
  return text => {
    const [, host, port] = /^(?:(\[[0-9a-f:.]+\]|[^:[\]\s]*):)?(\d{1,5})$/i.exec(text) ?? []
    if (port === undefined || Number(port) < least || Number(port) > 65_535 || (!isHostless && !host))
      throw new InvalidArgumentError(`It must be host:port, the port from ${least} to 65535.`)
    return text
  }
}

function example(command: Command, ...lines: string[]): Command {
  return command.addHelpText('after', `\nExample:\n${lines.map(line => `  $ ${line}`).join('\n')}`)
}

/** A guest and what the machine around it is made of. */
function guest(command: Command): Command {
  return command
    .argument('<guest>', "an ELF file with a PVH entry, or the name of one of hypertwin's own guests")
    .addOption(memory('64MiB'))
    .option('--append <text>', "the guest's command line", '')
    .option('--initrd <file>', 'an initial RAM disk')
    .option('--disk <image>', 'a raw disk image; may be given several times', args.collect)
    .option('--net', 'a network device that is connected to nothing')
    .option('--tap <interface>', 'a network device on a tap interface of the host', args.collect)
    .addOption(kvm())
}

example(
  program
    .command('demo')
    .description('serve 50 mail users on KVM, kill the host that does, and see them go on; before, record and replay it all')
    .addOption(new Option('--users <n>', 'simulated users').argParser(args.integer(1, 256)).default(50))
    .addOption(new Option('--seconds <n>', 'how long they work').argParser(args.seconds).default(10))
    .addOption(
      new Option('--hosts <n>', 'primary, backup and spares').argParser(args.integer(2, 9)).default(3)
    )
    .addOption(
      new Option('--kill <when>', 'kill the primary in the middle, when you press Enter, or not at all')
        .choices(['auto', 'manual', 'none'])
        .default('auto')
    )
    .option('--silent', "cut the host's cable with the kill, so that no connection is reset")
    .addOption(new Option('--arbiter <which>', 'who decides').choices(['file', 'etcd']).default('file'))
    .addOption(
      new Option('--think <ms>', "between an answer and the user's next request").argParser(args.integer(0, 60_000)).default(0)
    )
    .addOption(silence())
    .option('--page [host:port]', 'serve a live page, by default on a free port of 127.0.0.1')
    .addOption(memory('32MiB'))
    .option('--out <folder>', 'where log, pictures and report go (default: out/demo-<time>)')
    .addOption(new Option('--seed <n>', "of the users' choices").argParser(args.integer(0, 2 ** 32 - 1)).default(1))
    .addOption(
      new Option('--mode <mode>', 'how dirty pages are tracked')
        .choices(['auto', 'bitmap', 'manual', 'ring'])
        .default('auto')
    )
    .option('--keep', 'keep the disk images too')
    .addOption(json())
    .addOption(kvm()),
  'hypertwin demo --seconds 5 --users 20',
  'hypertwin demo --kill manual --page'
).action(run(async () => (await import('./demo/demo.js')).demo))

/** How something comes, what of it first, and where one sees it. */
function streamed(command: Command, when = '', waiter = 'a read that has waited'): Command {
  return command
    .option('--digest <hex>', `${when}what the manifest's digest must be, as \`hypertwin stream pack\` prints it`)
    .option('--header <text>', `${when}name: value, sent with each request; @file: the lines of a file, for what others must not see; may be given several times`, args.collect)
    .option('--ca <file>', `${when}checks a server's certificate (PEM) in place of the system's authorities`)
    .option('--profile <file>', `${when}what is needed first; none for nothing (default: the pack's own, where it has one)`)
    .addOption(
      new Option(
        '--gate <when>',
        `${when}when the start may be made: once what the profile has will come in time (forecast), or is here (profile), when the copy is whole (all), or at once (none) (default: forecast)`
      ).choices(['forecast', 'profile', 'all', 'none'])
    )
    .addOption(
      new Option('--wait <seconds>', `${when}${waiter} for so long fails; 0: never (default: 0)`).argParser(args.integer(0, 1_000_000))
    )
    .option('--no-fill', `${when}only what is read and what the profile has comes`)
    .addOption(new Option('--page [host:port]', `${when}serve a live page of it, by default on a free port of 127.0.0.1`).argParser(address(0, true)))
    .option('--allow-host <name>', `${when}a name by which browsers may call the page; may be given several times`, args.collect)
    .option('--picture <file.svg>', `${when}at the end, draw its blocks: what came, why, and in which order`)
}

example(
  streamed(
    program
      .command('run')
      .description('run a virtual machine on this terminal: Linux, or one of our guests (Ctrl-A h there for help)')
      .option('--kernel <file>', "a bzImage, an ELF file with a PVH entry, or the name of one of hypertwin's own guests")
      .option('--restore <snapshot>', "go on where a snapshot was taken, in place of booting; with --cache, from a pack's folder or http(s) URL")
      .option('--cache <folder>', 'the local copy of a snapshot that comes while the machine runs')
      .option('--learn <file>', "with --cache: bring only what is touched, and write a profile of that at the end; a pack's own is its profile.json"),
    'with --cache: ',
    'a machine that has waited for memory'
  )
    .addOption(new Option('--initrd <file>', 'an initial RAM disk').conflicts('restore'))
    .addOption(new Option('--append <text>', "the kernel's command line").default('').conflicts('restore'))
    .option('--disk <image>', 'a raw image, a block device or an NBD URI, with ,ro at its end read-only; may be given several times', args.collect)
    .option('--net <tap>', 'a tap interface of the host, perhaps ,<mac>, perhaps ,vhost=on|off; - is connected to nothing; may be given several times', args.collect)
    .addOption(new Option('--cpus <n>', 'virtual CPUs').argParser(args.integer(1, 254)).default(1).conflicts('restore'))
    .addOption(memory('256MiB').conflicts('restore'))
    .addOption(new Option('--board <board>', 'fast, or recordable').choices(['standard', 'deterministic']).default('standard').conflicts('restore'))
    .addOption(new Option('--console <which>', 'what this terminal is connected to').choices(['serial', 'virtio']).default('serial').conflicts('restore'))
    .addOption(new Option('--balloon', 'a device by which the guest gives memory back').conflicts('restore'))
    .option('--vsock <socket>', 'a vsock device; the UNIX socket by which the host reaches the guest')
    .addOption(new Option('--cid <n>', "the guest's vsock number (default: 3, or the snapshot's)").argParser(args.integer(3, 2 ** 32 - 2)))
    .option('--snapshot <file>', 'what Ctrl-A s writes')
    .option('--gdb <address>', 'let gdb attach: a port, host:port, or the path of a socket')
    .option('--paused', 'with --gdb: wait for it before the first instruction')
    .option('--no-reboot', 'end when the guest reboots')
    .addOption(json())
    .addOption(kvm()),
  'hypertwin run --kernel vmlinuz --initrd initrd.img --append "console=ttyS0" --cpus 2 --disk root.raw --net tap0',
  'hypertwin run --kernel hello --board deterministic',
  'hypertwin run --restore https://images.example.org/ready --cache /var/cache/ready --disk root.raw'
).action(run(async () => (await import('./run.js')).run))

example(
  guest(program.command('record'))
    .description('run a guest and write its event log')
    .requiredOption('--out <folder>', 'where the log goes; a new or empty folder')
    .addOption(
      new Option('--seconds <n>', 'how long').argParser(args.seconds).conflicts('untilPoweroff')
    )
    .option('--until-poweroff', 'until the guest powers off (the default)')
    .addOption(json()),
  'hypertwin record hello --out hello.log'
).action(run(async () => (await import('./record.js')).record))

example(
  program
    .command('replay')
    .description('run a machine from its event log alone, and compare it with what was recorded')
    .argument('<folder>', 'what a recording wrote')
    .addOption(new Option('--to <boundary>', 'stop there').argParser(args.boundary))
    .addOption(json())
    .addOption(kvm()),
  'hypertwin replay hello.log',
  'hypertwin replay hello.log --to 1000 --json'
).action(run(async () => (await import('./replay.js')).replay))

example(
  guest(program.command('dirty'))
    .description('run a guest and show which pages it writes')
    .addOption(new Option('--seconds <n>', 'how long').argParser(args.seconds).default(10))
    .addOption(
      new Option('--interval <ms>', 'between two harvests').argParser(args.integer(10, 60_000)).default(250)
    )
    .addOption(
      new Option('--mode <mode>', 'how pages are tracked')
        .choices(['auto', 'bitmap', 'manual', 'ring'])
        .default('auto')
    )
    .option('--png <file>', 'write the heat map as PNG')
    .option('--svg <file>', 'write the heat map as SVG')
    .addOption(json()),
  'hypertwin dirty dirtier --seconds 5 --png heat.png'
).action(run(async () => (await import('./dirty.js')).dirty))

const log = program.command('log').description('look into an event log')
example(
  log
    .command('show')
    .description('print its records, one a line')
    .argument('<folder>', 'what a recording wrote')
    .addOption(new Option('--from <boundary>', 'begin there').argParser(args.boundary))
    .option('--kind <kinds>', 'only these, for example packet,interrupt', args.collect)
    .addOption(new Option('--limit <n>', 'at most so many').argParser(args.integer(1, Number.MAX_SAFE_INTEGER)))
    .option('--follow', 'wait for more at the end')
    .option('--json', 'one JSON object a line'),
  'hypertwin log show hello.log --kind interrupt --limit 20'
).action(run(async () => (await import('./log.js')).show))
example(
  log
    .command('verify')
    .description('check every byte of it, and say what is lost')
    .argument('<folder>', 'what a recording wrote')
    .addOption(json()),
  'hypertwin log verify hello.log'
).action(run(async () => (await import('./log.js')).verify))

/** TLS, by files. */
function tls(command: Command): Command {
  return command
    .option('--tls-ca <file>', "checks the other side's certificate (PEM); with it the connection is TLS")
    .option('--tls-cert <file>', "this side's certificate and its chain (PEM)")
    .option('--tls-key <file>', 'its private key (PEM)')
    .option('--tls-name <name>', "what the other side's certificate must name")
}

example(
  tls(program.command('backup'))
    .description('wait for a primary, follow it, and run its machine when the primary is lost')
    .requiredOption('--listen <address>', 'tcp://host:port or unix:/path')
    .requiredOption('--arbiter <arbiter>', 'who decides: file:/shared/folder or etcd:http://host:2379')
    .option('--disk <image>', "this side's copy of a disk; may be given several times", args.collect)
    .option('--disk-folder <folder>', 'where the primary may choose the copies; may be given several times', args.collect)
    .option('--tap <interface>', 'a tap interface of this host, - for none; may be given several times', args.collect)
    .option('--pool <address>', 'once live, a backup to look for; may be given several times', args.collect)
    .addOption(silence())
    .option('--no-announce', 'do not tell the network where the machine is now')
    .option('--status <address>', 'serve the status on host:port')
    .option('--allow-host <name>', 'a name by which the status may be called; may be given several times', args.collect)
    .option('--name <name>', 'of this side, on the page and in metrics')
    .option('--json', 'one JSON object a line on standard output')
    .addOption(kvm()),
  'hypertwin backup --listen tcp://0.0.0.0:7200 --arbiter file:/mnt/claims --disk copy.img --tap tap0'
).action(run(async () => (await import('./backup.js')).backup))

example(
  tls(guest(program.command('migrate')))
    .description('run a guest, and move it to another process while it runs')
    .requiredOption('--to <address>', 'where `hypertwin receive` listens: tcp://host:port or unix:/path')
    .addOption(new Option('--after <n>', 'seconds that it runs here first').argParser(args.seconds).default(1))
    .option('--arbiter <arbiter>', 'who decides when the connection breaks: file:/shared/folder or etcd:http://host:2379')
    .option('--copy-disks', "send the disks' contents too")
    .addOption(new Option('--bandwidth <size>', 'at most so many bytes a second, for example 20MiB').argParser(args.memorySize))
    .addOption(
      new Option('--max-blackout <ms>', 'how long the machine may stand still').argParser(args.integer(0, 600_000)).default(30)
    )
    .option('--must-converge', 'give up when that cannot be reached')
    .option('--svg <file>', 'write a picture of the rounds')
    .addOption(json()),
  'hypertwin migrate dirtier --append rounds=0 --to tcp://10.0.0.2:7100 --svg rounds.svg'
).action(run(async () => (await import('./migrate.js')).migrate))

example(
  tls(program.command('receive'))
    .description('wait for a machine that is moved here, and run it until it ends')
    .requiredOption('--listen <address>', 'tcp://host:port or unix:/path')
    .option('--disk <image>', "a disk's image here; may be given several times", args.collect)
    .option('--disk-folder <folder>', 'where the source may choose the images; may be given several times', args.collect)
    .option('--tap <interface>', 'a tap interface of this host, - for none; may be given several times', args.collect)
    .option('--arbiter <arbiter>', 'as the source has it: file:/shared/folder or etcd:http://host:2379')
    .option('--once', 'end when a migration fails, in place of waiting for the next one')
    .option('--json', 'one JSON object a line on standard output')
    .addOption(kvm()),
  'hypertwin receive --listen tcp://0.0.0.0:7100 --disk mail.img'
).action(run(async () => (await import('./migrate.js')).receive))

const ha = program.command('ha').description('look at primaries and backups')
example(
  ha
    .command('serve')
    .description('serve a live page of primaries and backups, and their metrics')
    .addOption(new Option('--listen <address>', 'host:port').default('127.0.0.1:9200'))
    .requiredOption('--watch <url>', 'a status server; may be given several times', args.collect)
    .option('--allow-host <name>', 'a name by which browsers may call the page; may be given several times', args.collect)
    .addOption(json()),
  'hypertwin ha serve --watch http://10.0.0.1:7201 --watch http://10.0.0.2:7201'
).action(run(async () => (await import('./ha.js')).serve))
example(
  ha
    .command('status')
    .description('say what a status server shows')
    .argument('<url>', 'for example http://10.0.0.2:7201')
    .addOption(json()),
  'hypertwin ha status http://10.0.0.2:7201'
).action(run(async () => (await import('./ha.js')).status))

const stream = program.command('stream').description('run images while they are still coming')
/** Where an image comes from. */
function image(command: Command): Command {
  return streamed(
    command
      .argument('<source>', 'the folder or the http(s) URL of a pack, or an NBD URI with --manifest')
      .requiredOption('--cache <folder>', "this image's local copy; what is there already does not come again")
      .option('--manifest <where>', 'with an NBD URI: the manifest, or the folder or URL of its pack')
  )
    .option('--trace <file>', 'write down what is read, for `hypertwin stream trace`')
}
example(
  stream
    .command('pack')
    .description('make of a disk image what any web server can stream')
    .argument('<image>', 'a file, a block device, or an nbd URL')
    .argument('<folder>', 'where the pack goes')
    .addOption(new Option('--format <format>', "of the image (default: raw; it is never guessed)").choices(['raw', 'qcow2']))
    .addOption(new Option('--chunk-size <size>', 'a power of two from 4KiB to 1MiB').argParser(args.memorySize).default('64KiB'))
    .addOption(new Option('--quality <n>', 'of the compression').argParser(args.integer(0, 11)).default(5))
    .option('--profile <file>', 'a profile for the pack; the chunks that it names lie first in its data file')
    .addOption(json()),
  'hypertwin stream pack debian.qcow2 /srv/www/debian --format qcow2'
).action(run(async () => (await import('./stream.js')).pack))
example(
  image(stream.command('serve').description('stream an image into a local copy, and serve that over NBD meanwhile'))
    .option('--socket <path>', 'of a UNIX socket to serve at (default: a new one); a server that was left there is taken over, as it was started')
    .addOption(new Option('--listen <address>', 'serve on host:port instead').argParser(address(1)))
    .option('--writable', 'clients may write, into a temporary file that all of them see: one server for each machine that writes')
    .option('--json', 'one JSON object a line on standard output'),
  'hypertwin stream serve https://images.example.org/debian --cache /var/cache/debian --socket /run/debian.sock'
).action(run(async () => (await import('./stream.js')).serve))
example(
  image(stream.command('run').description('run QEMU on an image while it comes, on this terminal'))
    .argument('[qemu...]', "more of QEMU's arguments, after --")
    .addOption(memory('1GiB'))
    .addOption(new Option('--cpus <n>', 'virtual CPUs').argParser(args.integer(1, 255)).default(1))
    .addOption(new Option('--accel <which>', 'how QEMU runs the guest (default: kvm where it may be used)').choices(['kvm', 'tcg']))
    .option('--kernel <file>', 'in place of what the image boots')
    .option('--initrd <file>', 'an initial RAM disk, with --kernel')
    .option('--append <text>', "the kernel's command line, with --kernel")
    .option('--overlay <file>', 'keep what the guest writes in this qcow2 file (default: it goes with the guest)')
    .addOption(json()),
  'hypertwin stream run https://images.example.org/debian --cache /var/cache/debian -- -nic user'
).action(run(async () => (await import('./stream.js')).run))
example(
  stream
    .command('status')
    .description('say how far a local copy is')
    .argument('<cache>', 'the folder that was given as --cache')
    .option('--map', 'with a picture of the image: what is here of it')
    .addOption(json()),
  'hypertwin stream status /var/cache/debian --map'
).action(run(async () => (await import('./stream.js')).status))
example(
  stream
    .command('examine')
    .description('look into an image without running it, and make a profile of what a start will need')
    .argument('<image>', 'the raw image that was packed')
    .requiredOption('--pack <folder>', 'its pack or local copy')
    .option('--app <path>', 'a program or folder in the image that matters too; may be given several times', args.collect)
    .option('--files', 'list the files')
    .option('--out <file>', "write the profile; a pack's own is its profile.json")
    .addOption(json()),
  'hypertwin stream examine debian.raw --pack /srv/www/debian --app /usr/sbin/nginx --out /srv/www/debian/profile.json'
).action(run(async () => (await import('./stream.js')).examine))
example(
  stream
    .command('trace')
    .description('look at traces of starts, and make a profile of them')
    .argument('<trace...>', 'what --trace has written')
    .requiredOption('--image <folder>', "the image's pack or local copy")
    .addOption(new Option('--seconds <n>', 'only what was read within so many seconds of the first read').argParser(args.seconds))
    .option('--out <file>', 'write the profile')
    .addOption(json()),
  'hypertwin stream trace one.trace two.trace --image /srv/www/debian --out profile.json'
).action(run(async () => (await import('./stream.js')).trace))

const host = program.command('host').description('look at the domains of a libvirt host, and move them')
/** Which libvirt. */
const connect = (): Option =>
  new Option('-c, --connect <uri>', 'for example qemu:///system; by default as LIBVIRT_DEFAULT_URI says, or as libvirt finds')
example(
  host.command('list').description('the domains that run').option('--all', 'those that do not run, too').addOption(connect()).addOption(json()),
  'hypertwin host list --all -c qemu+ssh://root@host1/system'
).action(run(async () => (await import('./host.js')).list))
example(
  host
    .command('watch')
    .description('say what happens to the domains, until Ctrl-C; a lost connection is opened again')
    .addOption(connect())
    .option('--json', 'one JSON object a line on standard output'),
  'hypertwin host watch'
).action(run(async () => (await import('./host.js')).watch))
example(
  host
    .command('migrate')
    .description('move a domain to another host while it runs')
    .argument('<domain>', 'its name, UUID or number')
    .argument('<destination>', 'the URI of the other libvirt; with --peer as the first one reaches it')
    .addOption(connect())
    .option('--peer', 'the first libvirt does it all, whatever becomes of this command')
    .option('--tunnelled', 'with --peer: through the connection of the two libvirts')
    .option('--migrate-uri <uri>', 'where the hypervisor connects to, for example tcp://10.0.0.2')
    .addOption(new Option('--bandwidth <size>', 'at most so many bytes a second, for example 20MiB').argParser(args.memorySize))
    .addOption(new Option('--max-blackout <ms>', 'how long the domain may stand still').argParser(args.integer(1, 600_000)))
    .addOption(new Option('--parallel <n>', 'so many connections').argParser(args.integer(1, 255)))
    .option('--auto-converge', 'slow the guest down when it writes too fast')
    .addOption(new Option('--post-copy-after <rounds>', 'then move it at once, with its memory after it').argParser(args.integer(0, 1_000_000)))
    .option('--copy-disks', 'copy its images too')
    .option('--persist', 'define it there')
    .option('--undefine-source', 'undefine it here')
    .option('--unsafe', "though its disks are cached by the host, or libvirt cannot tell that their storage is shared")
    .addOption(json()),
  'hypertwin host migrate web qemu+tls://host2/system --auto-converge --post-copy-after 5'
).action(run(async () => (await import('./host.js')).migrate))
example(
  host
    .command('dirty')
    .description('how fast domains write their memory')
    .argument('[domain...]', 'names, UUIDs or numbers; all that run if left out')
    .addOption(connect())
    .addOption(
      new Option('--mode <mode>', 'how the hypervisor measures')
        .choices(['page-sampling', 'dirty-bitmap', 'dirty-ring'])
        .default('page-sampling')
    )
    .addOption(new Option('--seconds <n>', 'that each measurement takes').argParser(args.integer(1, 60)).default(1))
    .addOption(new Option('--count <n>', 'so many measurements (default: until Ctrl-C)').argParser(args.integer(1, 1_000_000)))
    .addOption(json()),
  'hypertwin host dirty --count 10'
).action(run(async () => (await import('./host.js')).dirty))

example(
  program
    .command('doctor')
    .description("say what this host's KVM offers, and what to do about what is missing")
    .addOption(json())
    .addOption(kvm()),
  'hypertwin doctor'
).action(run(async () => (await import('./doctor_command.js')).doctor))

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? Exit.ok : Exit.usage
  else if (error instanceof CliError) process.exitCode = await report(error, false)
  else throw error
}
