// The first request that each image must answer, made from outside of the guest. A request is
// `{ what, ask(port, signal, host?), said?(console) }`: `ask` resolves with true for the right answer and with false for a wrong
// one, and rejects where there is none; a request that the guest answers unasked, on its console, has `said` instead.
import { connect } from 'node:net'

/** One connection: `talk` is given a function that waits until what has come fits, and one that sends. */
function conversation(talk) {
  return (port, signal, host = '127.0.0.1') =>
    new Promise((resolve, reject) => {
      const socket = connect({ port, host, signal })
      let bytes = Buffer.alloc(0)
      let wake = () => {}
      let ended = false
      const end = error => {
        ended = true
        wake()
        socket.destroy()
        reject(error ?? new Error('the connection ended'))
      }
      socket.on('data', piece => {
        bytes = Buffer.concat([bytes, piece])
        wake()
      })
      socket.once('error', end)
      socket.once('close', () => end())
      const until = async fits => {
        for (;;) {
          const found = fits(bytes)
          if (found !== undefined && found !== false) {
            const had = bytes
            bytes = Buffer.alloc(0)
            return found === true ? had : found
          }
          if (ended) throw new Error('the connection ended')
          await new Promise(resolve => (wake = resolve))
        }
      }
      talk(until, data => socket.write(data)).then(right => {
        resolve(right)
        socket.destroy()
      }, end)
    })
}

/** A page that has a text in it. */
export function httpGet(path, text) {
  return {
    what: `GET ${path}`,
    ask: conversation(async (until, send) => {
      send(`GET ${path} HTTP/1.0\r\nHost: guest\r\n\r\n`)
      // An answer of HTTP/1.0 ends with its connection, or has a length; the text is near its end or alone.
      const answer = await until(bytes => /^HTTP\/1\.[01] 200 /.test(bytes.toString('latin1', 0, 20)) ? bytes.includes(text) : /^HTTP\/1\.[01] (?!200)\d/.test(bytes.toString('latin1', 0, 20)))
      return answer.includes(text)
    })
  }
}

/** A line of RESP. */
export function redisGet(key, value) {
  return {
    what: `GET ${key}`,
    ask: conversation(async (until, send) => {
      send(`GET ${key}\r\n`)
      const answer = await until(bytes => /^\$\d+\r\n[^\r]*\r\n|^[-+:][^\r]*\r\n|^\$-1/.test(bytes.toString('latin1')))
      return answer.toString('latin1') === `$${value.length}\r\n${value}\r\n`
    })
  }
}

/** Logs in and looks how many letters there are. */
export function imapInbox(user, password, letters) {
  return {
    what: 'LOGIN, SELECT INBOX',
    ask: conversation(async (until, send) => {
      const line = pattern => until(bytes => pattern.test(bytes.toString('latin1')))
      await line(/^\* OK.*\r\n/)
      send(`a LOGIN ${user} ${password}\r\n`)
      if (!/^a OK/m.test((await line(/^a \w+.*\r\n/m)).toString('latin1'))) return false
      send('b SELECT INBOX\r\n')
      return new RegExp(`^\\* ${letters} EXISTS`, 'm').test((await line(/^b \w+.*\r\n/m)).toString('latin1'))
    })
  }
}

/** A query of one value, by PostgreSQL's protocol version 3, without a password. */
export function postgresQuery(user, query, value) {
  const message = (type, body) => {
    const bytes = Buffer.alloc(4 + body.length)
    bytes.writeUInt32BE(bytes.length)
    bytes.set(Buffer.from(body, 'latin1'), 4)
    return Buffer.concat([Buffer.from(type), bytes])
  }
  return {
    what: query,
    ask: conversation(async (until, send) => {
      send(message('', `\0\x03\0\0user\0${user}\0\0`))
      // ReadyForQuery, or an error.
      const ready = bytes => bytes.subarray(-6).equals(Buffer.from('Z\0\0\0\x05I', 'latin1')) || bytes[0] === 0x45
      if ((await until(ready))[0] === 0x45) return false
      send(message('Q', `${query}\0`))
      return (await until(ready)).includes(value)
    })
  }
}

/** A query of one value, by MariaDB's protocol, without a password. */
export function mysqlQuery(user, query, value) {
  const packet = (number, body) => {
    const head = Buffer.from([body.length & 255, body.length >> 8, 0, number])
    return Buffer.concat([head, body])
  }
  const whole = bytes => bytes.length >= 5 && bytes.length >= 4 + bytes.readUIntLE(0, 3)
  return {
    what: query,
    ask: conversation(async (until, send) => {
      if ((await until(whole))[4] !== 10) return false
      // Protocol 4.1, secure connection, plugin's name; 16 MiB at most; utf8.
      const head = Buffer.alloc(32)
      head.writeUInt32LE(0x00088201)
      head.writeUInt32LE(1 << 24, 4)
      head[8] = 33
      send(packet(1, Buffer.concat([head, Buffer.from(`${user}\0\0mysql_native_password\0`, 'latin1')])))
      if ((await until(whole))[4] !== 0) return false
      send(packet(0, Buffer.from(`\x03${query}`, 'latin1')))
      return (await until(bytes => bytes.includes(value) || (whole(bytes) && bytes[4] === 255))).includes(value)
    })
  }
}

/** The guest says it on its console. */
export function consoleSays(pattern) {
  return { what: 'a line on its console', said: text => pattern.test(text) }
}
