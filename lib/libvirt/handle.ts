// What all of libvirt's objects have in common: they are handles that can be closed.
import { addon } from './addon.js'
import { libvirtErrors } from './errors.js'

/**
 * The base of all of libvirt's objects. Each owns one reference to the object in libvirt, which close(),
 * `await using` or the garbage collector lets go of; the last of them never goes on the JavaScript thread.
 * Objects come out of calls: their constructors are of no use.
 *
 * @since 0.1.0
 */
export class Handle implements AsyncDisposable {
  /** True after close(). */
  get closed(): boolean {
    return addon.libvirtIsClosed(this)
  }

  /**
   * Lets go of the object, when the calls on it that run now have ended. What it stands for (a domain, a
   * volume) is not touched. Twice is fine.
   *
   * @since 0.1.0
   */
  close(): Promise<void> {
    return libvirtErrors(() => addon.libvirtClose(this))
  }

  /** See {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
