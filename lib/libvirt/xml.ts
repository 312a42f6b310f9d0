// XML as plain objects: what libvirt describes things with. Reading and writing is xmldom's.
import { DOMImplementation, DOMParser, XMLSerializer, type Document, type Element as Node } from '@xmldom/xmldom'
import { invalid } from './checks.js'

/**
 * An element of XML.
 *
 * @since 0.1.0
 */
export interface XmlElement {
  /** With its prefix, if there is one. */
  name: string
  /** By their names. */
  attributes: Record<string, string>
  /** Elements and text, in their order. */
  children: (XmlElement | string)[]
}

/**
 * Reads XML.
 *
 * @throws LibvirtError `EINVAL` when it is not well-formed; the message says where
 * @since 0.1.0
 */
export function parseXml(text: string): XmlElement {
  if (typeof text !== 'string') throw invalid('XML must be a string')
  let root
  try {
    const onError = (_level: string, message: string): never => {
      throw new Error(message)
    }
    root = new DOMParser({ onError }).parseFromString(text, 'application/xml').documentElement
  } catch (error) {
    throw invalid(`this is no well-formed XML: ${(error as Error).message.split('\n')[0]}`)
  }
  if (!root) throw invalid('this is no well-formed XML: it has no element')
  return read(root)
}

function read(node: Node): XmlElement {
  const children: XmlElement['children'] = []
  for (const child of Array.from(node.childNodes))
    if (child.nodeType === child.ELEMENT_NODE) children.push(read(child as Node))
    else if (child.nodeType === child.TEXT_NODE || child.nodeType === child.CDATA_SECTION_NODE)
      children.push(child.nodeValue ?? '')
  const attributes = Object.fromEntries(Array.from(node.attributes, ({ name, value }) => [name, value]))
  return { name: node.tagName, attributes, children }
}

/**
 * Writes XML.
 *
 * @throws LibvirtError `EINVAL` when a name is none in XML
 * @since 0.1.0
 */
export function xmlText(element: XmlElement): string {
  const document = new DOMImplementation().createDocument(null, '')
  try {
    document.appendChild(build(document, element))
    return new XMLSerializer().serializeToString(document, { requireWellFormed: true })
  } catch (error) {
    throw invalid(`this cannot be XML: ${(error as Error).message}`)
  }
}

function build(document: Document, { name, attributes, children }: XmlElement): Node {
  const node = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value)
  for (const child of children)
    node.appendChild(typeof child === 'string' ? document.createTextNode(child) : build(document, child))
  return node
}

/** Attributes and children that are undefined are left out. @internal */
export function element(
  name: string,
  attributes: Record<string, string | number | bigint | undefined> = {},
  children: (XmlElement | string | number | bigint | undefined)[] = []
): XmlElement {
  const said = Object.entries(attributes).filter(([, value]) => value !== undefined)
  return {
    name,
    attributes: Object.fromEntries(said.map(([key, value]) => [key, String(value)])),
    children: children.filter(child => child !== undefined).map(child => (typeof child === 'object' ? child : String(child)))
  }
}

/** The elements of a name among the children; `'a/b'`: children's children. @internal */
export function all(of: XmlElement | undefined, path: string): XmlElement[] {
  return path
    .split('/')
    .reduce<XmlElement[]>(
      (list, name) => list.flatMap(({ children }) => children.filter(child => typeof child === 'object' && child.name === name) as XmlElement[]),
      of ? [of] : []
    )
}

/** The first of {@link all}. @internal */
export function first(of: XmlElement | undefined, path: string): XmlElement | undefined {
  return all(of, path)[0]
}

/** The text in the first of {@link all}. @internal */
export function textIn(of: XmlElement | undefined, path: string): string | undefined {
  const found = first(of, path)
  return found?.children.filter(child => typeof child === 'string').join('').trim()
}
