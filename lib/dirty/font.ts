// A small pixel font, 5 by 7, for pictures that must not depend on fonts being installed. Each character is
// seven rows, top first, one base-32 digit a row: its five bits are the row's pixels, left first.

const rows: Record<string, string> = {
  '0': 'ehjlphe', '1': '4c4444e', '2': 'eh1248v', '3': 'v2421he', '4': '26aiv22', '5': 'vgu11he', '6': '68guhhe',
  '7': 'v124888', '8': 'ehhehhe', '9': 'ehhf12c', A: 'ehhvhhh', B: 'uhhuhhu', C: 'ehggghe', D: 'sihhhis', E: 'vgguggv',
  F: 'vgguggg', G: 'ehgnhhf', H: 'hhhvhhh', I: 'e44444e', J: '72222ic', K: 'hikokih', L: 'ggggggv', M: 'hrllhhh',
  N: 'hhpljhh', O: 'ehhhhhe', P: 'uhhuggg', Q: 'ehhhlid', R: 'uhhukih', S: 'fgge11u', T: 'v444444', U: 'hhhhhhe',
  V: 'hhhhha4', W: 'hhhllla', X: 'hha4ahh', Y: 'hhha444', Z: 'v1248gv', a: '00e1fhf', b: 'ggmphhu', c: '00egghe',
  d: '11djhhf', e: '00ehvge', f: '698s888', g: '0fhhf1e', h: 'ggmphhh', i: '40c444e', j: '20622ic', k: 'ggikoki',
  l: 'c44444e', m: '00qllhh', n: '00mphhh', o: '00ehhhe', p: '00uhugg', q: '00djf11', r: '00mpggg', s: '00ege1u',
  t: '88s8896', u: '00hhhjd', v: '00hhha4', w: '00hhlla', x: '00ha4ah', y: '00hhf1e', z: '00v248v', ' ': '0000000',
  '.': '00000cc', ',': '0000c48', ':': '0cc0cc0', '-': '000e000', '+': '044v440', '/': '01248g0', '(': '2488842',
  ')': '8422248', '%': 'op248j3', '=': '00v0v00', _: '000000v', '#': 'aavavaa'
}

/** Pixels from one character to the next, and from one line to the next. @internal */
export const advance = 6

/** Calls `put` for every pixel of the text, from (0, 0) at its upper left. What the font lacks is a box. @internal */
export function drawText(text: string, put: (x: number, y: number) => void): void {
  ;[...text].forEach((character, i) => {
    ;[...(rows[character] ?? 'vhhhhhv')].forEach((row, y) => {
      const bits = parseInt(row, 32)
      for (let x = 0; x < 5; x++) if ((bits >> (4 - x)) & 1) put(i * advance + x, y)
    })
  })
}
