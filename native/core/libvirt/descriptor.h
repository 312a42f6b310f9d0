// What the generated table says of libvirt's functions, structures, classes and events, so that one
// interpreter can call all of them. Data only: nothing here opens or calls libvirt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace hypertwin::libvirt {

enum class Library : uint8_t { main, qemu, lxc, admin };

// Quick calls wait for a daemon's answer at most; slow ones may last as long as what they start; those of
// streams as long as the other side likes.
enum class Lane : uint8_t { quick, slow, stream };
constexpr size_t kLanes = 3;

// One argument or the result of a call, as wide as the widest. Pointers (also those that an output is
// written through) are `p`.
union Slot {
  int i;
  unsigned u;
  long l;
  unsigned long ul;
  long long ll;
  unsigned long long ull;
  size_t z;
  double d;
  void* p;
};

enum class Scalar : uint8_t {
  none,
  i8,   // signed char
  u8,   // unsigned char
  u16,  // unsigned short
  i,    // int
  u,    // unsigned int
  l,    // long
  ul,   // unsigned long
  ll,   // long long
  ull,  // unsigned long long
  z,    // size_t
  d,    // double
  flag  // int that means a boolean
};

// Order of the constructors in libvirtClasses().
enum class Class : uint8_t {
  none,
  connect,
  domain,
  network,
  network_port,
  storage_pool,
  storage_vol,
  node_device,
  interface,
  secret,
  nw_filter,
  nw_filter_binding,
  domain_snapshot,
  domain_checkpoint,
  stream,
  adm_connect,
  adm_server,
  adm_client,
  count
};

struct ClassInfo {
  const char* name;  // in JavaScript
  Library library;
  const char* ref;   // adds a reference; null where libvirt has none
  const char* free;  // drops one
};

// The address of a function of the loaded library, by its name; where that is older than `since` it throws
// Error("LIBVIRT_TOO_OLD").
using Resolve = void* (*)(void* loader, Library library, const char* name, uint32_t since);
struct Resolver {
  Resolve resolve;
  void* loader;
  void* operator()(Library library, const char* name, uint32_t since) const {
    return resolve(loader, library, name, since);
  }
};
// How many elements an output array must have room for, found by asking libvirt with the arguments of the
// call, on the call's thread, before it. Negative: that failed, with libvirt's last error set. Throws what
// the resolver throws.
using CountQuery = int64_t (*)(const Resolver& resolver, const Slot* args);

enum class Kind : uint8_t {
  // JavaScript arguments, in this order
  in_value,    // by value, `scalar`
  in_handle,   // `type` is its Class
  in_string,   //
  in_strings,  // const char**, `length`
  in_values,   // array of `scalar`, `length`
  in_handles,  // array of Class `type` that ends with NULL
  in_bytes,    // `length`; also CPU maps
  in_uuid,     // a UUID's text, given as 16 bytes
  in_typed,    // an object, given as virTypedParameter array, `length`; `type` is the typed group
  in_struct,   // pointer to the structure `type`

  // filled by the interpreter, no JavaScript argument and no result
  length,    // by value (`scalar`): how many elements the input arrays that name it have; unequal is an error
  capacity,  // by value (`scalar`): from `count`, or the constant `fixed`
  counter,  // pointer to `scalar` (int or unsigned): preset to `count` (0 without), holds the number after it
  null,     // NULL

  // results
  out_value,          // pointer to `scalar`
  out_string,         // char**, owned: free()
  out_uuid,           // 16 bytes of room, given as text
  out_uuid_string,    // 37 bytes of room
  out_struct,         // pointer to the structure `type`, room by the caller
  out_bytes,          // room of `length` bytes, the first `filled` are valid
  out_strings,        // room for `length` char*, `filled` valid, each owned: free()
  out_values,         // room for `length` x `times` `scalar`s, `filled` valid
  out_structs,        // room for `length` structures `type`, `filled` valid
  out_typed,          // room for `length` virTypedParameter, `filled` valid; result one object
  out_typed_matrix,   // room for `length` x `times` of them, of each row `filled` are valid; an array of
                      // objects
  out_cpumaps,        // room for `times` maps of `length` bytes; `filled` maps; an array of byte arrays
  out_list_strings,   // char***, owned, `filled` of them: free() each and the array
  out_list_values,    // `scalar`**, owned, `filled` of them: free()
  out_list_handles,   // virXPtr**, owned, `filled` of Class `type`: array by free(), the handles go to
                      // JavaScript
  out_list_structs,   // virXPtr**, owned, `filled` pointers to the structure `type`: see Struct::free
  out_array_structs,  // virXPtr*, owned array of structures: free()
  out_list_typed,     // virTypedParameterPtr*, owned, `filled` of them: virTypedParamsFree
  out_cpumap          // unsigned char**, owned, (`filled` + 7) / 8 bytes: free()
};

constexpr int8_t kNone = -1;
constexpr int8_t kReturn = -2;  // the call's return value

struct Param {
  const char* name;  // of the JavaScript argument or the result's property
  Kind kind;
  Scalar scalar = Scalar::none;
  uint8_t type = 0;       // Class, structure or typed group
  int8_t length = kNone;  // the parameter with the number of elements
  int8_t times = kNone;   // the parameter by which that is multiplied
  int8_t filled = kNone;  // where the number of valid elements stands; kNone: all
  bool nullable = false;  // undefined and null are allowed and given as NULL
  CountQuery count = nullptr;
  int64_t fixed = 0;
};

enum class Result : uint8_t {
  nothing,          // void, or a status that says no more than failure
  value,            // `scalar`
  count,            // the number of an output's valid elements: no result of its own
  handle,           // Class `type`, owned
  borrowed_handle,  // Class `type`: take a reference, on the call's thread
  string,           // owned: free()
  borrowed_string,  // lives as long as the object: copy it on the call's thread
  bytes             // owned: free(); `length` is the parameter with their number
};

// When a call has failed. With `checked`, only if libvirt's last error is set as well; otherwise the value
// stands for "nothing there", and the result is undefined.
enum class Failure : uint8_t {
  never,
  minus_one,  // exactly -1
  negative,   // less than 0
  null,       // NULL
  zero,       // 0
  maximum     // all bits set, unsigned
};

struct Return {
  const char* name;  // of the result's property, when it is not the only result
  Result result;
  Scalar scalar = Scalar::none;  // set for every integer return, also of nothing and count
  uint8_t type = 0;
  int8_t length = kNone;
  Failure failure = Failure::negative;
  bool checked = false;
};

// Calls `function` with args[0..n-1] and writes what it returns to `result`.
using Thunk = void (*)(void* function, Slot* args, Slot* result);

// Results: with exactly one, it alone; with several, an object of them; with none, undefined.
struct Function {
  const char* name;
  Library library;
  Lane lane;
  uint32_t since;  // major * 1,000,000 + minor * 1,000 + release
  Thunk thunk;
  std::span<const Param> params;  // one for each C parameter
  Return ret;
};

enum class FieldKind : uint8_t {
  value,    // `scalar`
  chars,    // char[size] in place
  string,   // char*, may be NULL: then undefined
  strings,  // char**, `length`
  bytes,    // unsigned char*, `length`
  structs,  // pointer to an array of structures `type`, `length`
  handle,   // Class `type`, borrowed: take a reference
  typed,    // virTypedParameterPtr, `length`
  hidden    // a length of another field: no property
};

struct Field {
  const char* name;  // of the property
  FieldKind kind;
  Scalar scalar = Scalar::none;
  uint8_t type = 0;
  int8_t length = kNone;  // index of the field with the number of elements
  uint16_t offset = 0;
  uint16_t size = 0;   // of the field
  bool owned = false;  // free() it after use, where the structure is in the caller's room
};

struct Struct {
  const char* name;
  uint16_t size;
  std::span<const Field> fields;
  const char* free = nullptr;       // for each element of an out_list_structs; then free() the array
  const char* free_list = nullptr;  // for the whole out_list_structs instead
};

// Names that libvirt gives a type, so that a JavaScript number becomes the right one.
// 1 INT, 2 UINT, 3 LLONG, 4 ULLONG, 5 DOUBLE, 6 BOOLEAN, 7 STRING.
struct TypedField {
  const char* name;
  uint8_t type;
};

enum class EventFamily : uint8_t {
  domain,
  network,
  storage_pool,
  node_device,
  secret,
  qemu_monitor,
  close,
  adm_close
};

struct EventParam {
  const char* name;
  Kind kind;  // in_value, in_string, in_struct, in_typed (length in the next slot) or length
  Scalar scalar = Scalar::none;
  uint8_t type = 0;  // structure
};

struct Event {
  const char* name;  // for example "blockJob"
  EventFamily family;
  int id;
  uint32_t since;
  Class object;                        // what it is about: slot 1; none: only the connection, slot 0
  std::span<const EventParam> params;  // slots from 2 on
  void (*callback)();                  // given to libvirt, cast to what it asks for
};

// Called by every Event::callback on the event thread; copies what it needs. `opaque` is what the callback
// was registered with. The interpreter defines it.
void deliver_event(void* opaque, const Event& event, const Slot* slots);

// native/core/libvirt/generated/
std::span<const Function> functions();
std::span<const Struct> structs();
std::span<const ClassInfo> classes();
std::span<const std::span<const TypedField>> typed_groups();
std::span<const Event> events();
// Of all of the above; lib/libvirt/generated knows the same.
extern const char* const kTableHash;

}  // namespace hypertwin::libvirt
