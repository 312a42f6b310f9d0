#include "libvirt/call.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "libvirt/abi.h"
#include "libvirt/error.h"
#include "libvirt/exclusive.h"
#include "libvirt/handle.h"
#include "libvirt/loader.h"
#include "libvirt/scalars.h"
#include "libvirt/structs.h"
#include "libvirt/typed.h"
#include "libvirt/uuid.h"

namespace hypertwin::libvirt {

namespace {

// Memory from libvirt that is ours to free.
struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

// More than any answer of libvirt's: a number of elements beyond it is a mistake of the caller's.
constexpr uint64_t kMostRoom = uint64_t{1} << 30;
// VIR_STREAM_NONBLOCK: of virStreamNew, which alone returns a stream, the second argument.
constexpr unsigned kNonBlocking = 1;

bool is_input(Kind kind) { return kind <= Kind::in_struct; }

// The address of a function of the table, looked up at its first call.
void* address_of(const Function& function) {
  // Never destroyed, as the pool: its threads may still call while the process exits.
  static auto& addresses = *std::make_unique<std::vector<std::atomic<void*>>>(functions().size()).release();
  const Function* first = functions().data();
  // A function that is not of the table: a test's own.
  if (&function < first || &function >= first + functions().size())
    return loader().symbol(function.library, function.name, function.since);
  std::atomic<void*>& kept = addresses[static_cast<size_t>(&function - first)];
  void* address = kept.load(std::memory_order_acquire);
  if (!address) {
    address = loader().symbol(function.library, function.name, function.since);
    kept.store(address, std::memory_order_release);
  }
  return address;
}

int last_error_code() {
  static auto* const get = loader().get<abi::Error*()>("virGetLastError");
  const abi::Error* error = get();
  return error ? error->code : 0;
}

Value text_or_undefined(const char* text) { return text ? Value(std::string(text)) : Value(Undefined{}); }

}  // namespace

Resolver resolver() {
  return {[](void*, Library library, const char* name, uint32_t since) {
            return loader().symbol(library, name, since);
          },
          nullptr};
}

const Function* find_function(const char* name) {
  static const auto by_name = [] {
    std::unordered_map<std::string_view, const Function*> out;
    for (const Function& function : functions()) out.emplace(function.name, &function);
    return out;
  }();
  const auto found = by_name.find(name);
  return found == by_name.end() ? nullptr : found->second;
}

// Memory that is aligned for anything. All of it is zeroed where it is value-initialized: it has no padding,
// as std::max_align_t does.
struct alignas(std::max_align_t) Block {
  std::byte bytes[alignof(std::max_align_t)];
};

// The slots of a call and all that they point to.
struct Call::Memory {
  explicit Memory(const Function& f)
      : function(f), slots(f.params.size(), Slot{.ull = 0}), counts(f.params.size()) {}

  const Function& function;
  std::vector<Slot> slots;                      // one for each C parameter
  std::vector<std::optional<uint64_t>> counts;  // of `length` params: how many elements there are
  std::vector<uint64_t> rooms = std::vector<uint64_t>(slots.size());  // of outputs: elements that fit
  std::deque<std::vector<Block>> blocks;
  std::deque<std::string> strings;
  std::deque<TypedParameters> typed;
  std::deque<WrittenStruct> written;
  std::vector<std::shared_ptr<Handle>> handles;

  std::string where(size_t index) const {
    return std::string(function.name) + ": argument " + function.params[index].name;
  }
  [[noreturn]] void wrong(size_t index, const std::string& wants, const Value& is) const {
    throw Error("EINVAL", where(index) + " must be " + wants +
                              (function.params[index].nullable ? ", or undefined" : "") + "; it is " +
                              describe(is));
  }

  // Zeroed, aligned for anything, never null.
  void* room(uint64_t bytes) { return blocks.emplace_back(bytes / sizeof(Block) + 1).data(); }

  // Nobody ends the stream that is an argument while it is held.
  std::shared_lock<std::shared_mutex> use_of_stream() const {
    for (const auto& handle : handles) {
      if (handle->type() != Class::stream) continue;
      std::shared_lock use(handle->in_use(), std::try_to_lock);
      if (!use) throw Error("CLOSED", std::string(function.name) + ": the stream is being ended");
      return use;
    }
    return {};
  }

  const char* keep_text(size_t index, const std::string& text) {
    if (text.find('\0') != std::string::npos)
      throw Error("EINVAL", where(index) + " must not contain a NUL character");
    return strings.emplace_back(text).c_str();
  }

  void* object_of(size_t index, const HandleValue& value) {
    if (!value.handle)
      throw Error("CLOSED", where(index) + " is a " + classes()[static_cast<size_t>(value.type)].name +
                                " that is closed");
    handles.push_back(value.handle);
    return value.handle->object();
  }

  // ---- inputs

  void set_count(size_t index, uint64_t count) {
    const int8_t at = function.params[index].length;
    if (at < 0) return;
    std::optional<uint64_t>& known = counts[static_cast<size_t>(at)];
    if (known && *known != count)
      throw Error("EINVAL", where(index) + " must have " + std::to_string(*known) +
                                " elements like the one before; it has " + std::to_string(count));
    known = count;
  }

  void set_input(size_t index, const Value& value) {
    const Param& param = function.params[index];
    Slot& slot = slots[index];
    if (value.missing() && param.nullable) {
      slot.p = nullptr;
      return;
    }
    switch (param.kind) {
      case Kind::in_value:
        if (!write_scalar(param.scalar, value, &slot)) wrong(index, scalar_wants(param.scalar), value);
        break;
      case Kind::in_handle: {
        const auto* handle = value.as<HandleValue>();
        if (!handle || handle->type != static_cast<Class>(param.type))
          wrong(index, std::string("a ") + classes()[param.type].name, value);
        slot.p = object_of(index, *handle);
        break;
      }
      case Kind::in_string: {
        const auto* text = value.as<std::string>();
        if (!text) wrong(index, "a string", value);
        slot.p = const_cast<char*>(keep_text(index, *text));
        break;
      }
      case Kind::in_strings: {
        const auto* list = value.as<Array>();
        if (!list) wrong(index, "an array of strings", value);
        auto* out = static_cast<const char**>(room((list->size() + 1) * sizeof(char*)));
        for (size_t i = 0; i < list->size(); ++i) {
          const auto* text = (*list)[i].as<std::string>();
          if (!text) wrong(index, "an array of strings", value);
          out[i] = keep_text(index, *text);
        }
        slot.p = out;
        set_count(index, list->size());
        break;
      }
      case Kind::in_values: {
        const auto* list = value.as<Array>();
        if (!list) wrong(index, "an array, each " + scalar_wants(param.scalar), value);
        const size_t size = scalar_size(param.scalar);
        auto* out = static_cast<std::byte*>(room(list->size() * size));
        for (size_t i = 0; i < list->size(); ++i)
          if (!write_scalar(param.scalar, (*list)[i], out + i * size))
            throw Error("EINVAL", where(index) + "[" + std::to_string(i) + "] must be " +
                                      scalar_wants(param.scalar) + "; it is " + describe((*list)[i]));
        slot.p = out;
        set_count(index, list->size());
        break;
      }
      case Kind::in_handles: {
        const std::string wants = std::string("an array, each a ") + classes()[param.type].name;
        const auto* list = value.as<Array>();
        if (!list) wrong(index, wants, value);
        auto* out = static_cast<void**>(room((list->size() + 1) * sizeof(void*)));
        for (size_t i = 0; i < list->size(); ++i) {
          const auto* handle = (*list)[i].as<HandleValue>();
          if (!handle || handle->type != static_cast<Class>(param.type))
            throw Error("EINVAL", where(index) + "[" + std::to_string(i) + "] must be a " +
                                      classes()[param.type].name + "; it is " + describe((*list)[i]));
          out[i] = object_of(index, *handle);
        }
        slot.p = out;
        set_count(index, list->size());
        break;
      }
      case Kind::in_bytes: {
        const auto* bytes = value.as<Bytes>();
        if (!bytes) wrong(index, "a Uint8Array", value);
        slot.p = room(bytes->size());
        if (!bytes->empty()) std::memcpy(slot.p, bytes->data(), bytes->size());
        set_count(index, bytes->size());
        break;
      }
      case Kind::in_uuid: {
        const auto* text = value.as<std::string>();
        const auto bytes = text ? parse_uuid(*text) : std::nullopt;
        if (!bytes) wrong(index, "a UUID such as '6695eb01-f6a4-8304-79aa-97f2502e193f'", value);
        slot.p = room(bytes->size());
        std::memcpy(slot.p, bytes->data(), bytes->size());
        break;
      }
      case Kind::in_typed: {
        const auto* object = value.as<Object>();
        if (!object) wrong(index, "an object of parameters", value);
        TypedParameters& list =
            typed.emplace_back(write_typed(*object, typed_groups()[param.type], where(index)));
        slot.p = list.list.empty() ? room(0) : list.list.data();
        set_count(index, list.list.size());
        break;
      }
      case Kind::in_struct: {
        const auto* object = value.as<Object>();
        if (!object) wrong(index, "an object", value);
        slot.p =
            written.emplace_back(write_struct(structs()[param.type], *object, where(index))).memory.data();
        break;
      }
      default:
        break;
    }
  }

  void set_lengths() {
    for (size_t i = 0; i < slots.size(); ++i) {
      const Param& param = function.params[i];
      if (param.kind == Kind::length && !write_count(param.scalar, counts[i].value_or(0), &slots[i]))
        throw Error("EINVAL", std::string(function.name) + ": there are too many elements");
    }
  }

  // ---- rooms of the outputs

  // A number that stands in a parameter, or in the returned value.
  int64_t number_in(int8_t at, const Slot& returned) const {
    if (at == kReturn) return read_integer(function.ret.scalar, &returned);
    const Param& param = function.params[static_cast<size_t>(at)];
    const Slot& slot = slots[static_cast<size_t>(at)];
    const bool by_pointer = param.kind == Kind::counter || param.kind == Kind::out_value;
    return read_integer(param.scalar, by_pointer ? slot.p : &slot);
  }

  uint64_t elements(size_t index, int8_t at) const {
    if (at < 0) return 1;
    const int64_t number = number_in(at, Slot{});
    if (number < 0) return 0;
    if (static_cast<uint64_t>(number) > kMostRoom)
      throw Error("EINVAL", std::string(function.name) + ": " + std::to_string(number) + " elements of " +
                                function.params[index].name + " are too many");
    return static_cast<uint64_t>(number);
  }

  void make_room(size_t index, uint64_t count, size_t size) {
    if (count > kMostRoom / size)
      throw Error("EINVAL", std::string(function.name) + ": " + std::to_string(count) + " elements of " +
                                function.params[index].name + " are too many");
    rooms[index] = count;
    slots[index].p = room(count * size);
  }

  void count_capacities() {
    for (size_t i = 0; i < slots.size(); ++i) {
      const Param& param = function.params[i];
      if (param.kind != Kind::capacity && param.kind != Kind::counter) continue;
      int64_t count = param.fixed;
      if (param.count) {
        count = param.count(resolver(), slots.data());
        if (count < 0) throw last_error(function.name);
      }
      void* to = &slots[i];
      if (param.kind == Kind::counter) to = slots[i].p = room(sizeof(Slot));
      if (!write_count(param.scalar, static_cast<uint64_t>(count), to))
        throw Error("EINVAL", std::string(function.name) + ": there are too many elements");
    }
  }

  void make_rooms() {
    for (size_t i = 0; i < slots.size(); ++i) {
      const Param& param = function.params[i];
      switch (param.kind) {
        case Kind::out_value:
          make_room(i, 1, sizeof(Slot));
          break;
        case Kind::out_uuid:
          make_room(i, 1, 16);
          break;
        case Kind::out_uuid_string:
          make_room(i, 1, 37);
          break;
        case Kind::out_struct:
          make_room(i, 1, structs()[param.type].size);
          break;
        case Kind::out_string:
        case Kind::out_list_strings:
        case Kind::out_list_values:
        case Kind::out_list_handles:
        case Kind::out_list_structs:
        case Kind::out_array_structs:
        case Kind::out_list_typed:
        case Kind::out_cpumap:
          make_room(i, 1, sizeof(void*));
          break;
        default:
          break;
      }
    }
    // Those that are as long as a number which the ones above may hold room for.
    for (size_t i = 0; i < slots.size(); ++i) {
      const Param& param = function.params[i];
      const auto length = [&] { return elements(i, param.length); };
      const auto times = [&] { return elements(i, param.times); };
      switch (param.kind) {
        case Kind::out_bytes:
          make_room(i, length(), 1);
          break;
        case Kind::out_strings:
          make_room(i, length(), sizeof(char*));
          break;
        case Kind::out_values:
          make_room(i, length() * times(), scalar_size(param.scalar));
          break;
        case Kind::out_structs:
          make_room(i, length(), structs()[param.type].size);
          break;
        case Kind::out_typed:
          make_room(i, length(), sizeof(abi::TypedParameter));
          break;
        case Kind::out_typed_matrix:
          make_room(i, length() * times(), sizeof(abi::TypedParameter));
          break;
        case Kind::out_cpumaps:
          make_room(i, length() * times(), 1);
          break;
        default:
          break;
      }
    }
  }

  // ---- results

  bool failed(const Slot& returned) const {
    const Return& ret = function.ret;
    const bool pointer = ret.scalar == Scalar::none;
    const int64_t number = pointer ? 0 : read_integer(ret.scalar, &returned);
    switch (ret.failure) {
      case Failure::never:
        return false;
      case Failure::minus_one:
        return number == -1;
      case Failure::negative:
        return number < 0;
      case Failure::null:
        return returned.p == nullptr;
      case Failure::zero:
        return number == 0;
      case Failure::maximum: {
        uint64_t all = ~uint64_t{0};
        return std::memcmp(&returned, &all, scalar_size(ret.scalar)) == 0;
      }
    }
    return false;
  }

  // How many of an output are valid; never more than its room where the room is ours.
  uint64_t filled(size_t index, const Slot& returned) const {
    const Param& param = function.params[index];
    if (param.filled == kNone) return elements(index, param.length);
    const int64_t number = number_in(param.filled, returned);
    return number < 0 ? 0 : static_cast<uint64_t>(number);
  }

  template <class T>
  Owned<T> take_pointer(size_t index) {
    T* pointer = nullptr;
    std::memcpy(&pointer, slots[index].p, sizeof pointer);
    std::memset(slots[index].p, 0, sizeof pointer);
    return Owned<T>(pointer);
  }

  Value returned_value(const Slot& returned) {
    const Return& ret = function.ret;
    switch (ret.result) {
      case Result::value:
        return read_scalar(ret.scalar, &returned);
      case Result::handle: {
        if (!returned.p) return Value(Undefined{});
        const auto type = static_cast<Class>(ret.type);
        auto handle = Handle::adopt(type, returned.p);
        if (!handles.empty()) handle->set_origin(handles.front());
        if (type == Class::stream) handle->set_blocking((slots[1].u & kNonBlocking) == 0);
        return Value(HandleValue{type, std::move(handle)});
      }
      case Result::borrowed_handle: {
        if (!returned.p) return Value(Undefined{});
        const auto type = static_cast<Class>(ret.type);
        return Value(HandleValue{type, Handle::share(type, returned.p)});
      }
      case Result::string:
        return text_or_undefined(Owned<char>(static_cast<char*>(returned.p)).get());
      case Result::borrowed_string:
        return text_or_undefined(static_cast<const char*>(returned.p));
      case Result::bytes: {
        const Owned<uint8_t> bytes(static_cast<uint8_t*>(returned.p));
        if (!bytes) return Value(Undefined{});
        const int64_t length = number_in(ret.length, returned);
        return Value(Bytes(bytes.get(), bytes.get() + (length < 0 ? 0 : length)));
      }
      case Result::nothing:
      case Result::count:
        break;
    }
    return Value(Undefined{});
  }

  Value struct_list(size_t index, uint64_t count) {
    const Struct& layout = structs()[function.params[index].type];
    auto list = take_pointer<void*>(index);
    Array out;
    if (!list) return Value(std::move(out));
    // Also when reading one fails.
    struct FreeAll {
      const Struct& layout;
      Library library;
      Owned<void*>& list;
      uint64_t count;
      ~FreeAll() {
        if (layout.free_list) {
          auto* free_list = reinterpret_cast<void (*)(void*)>(loader().find(library, layout.free_list));
          if (free_list) free_list(list.release());
          return;
        }
        auto* free_one =
            layout.free ? reinterpret_cast<void (*)(void*)>(loader().find(library, layout.free)) : &std::free;
        for (uint64_t i = 0; free_one && i < count; ++i)
          if (list.get()[i]) free_one(list.get()[i]);
      }
    } free_all{layout, function.library, list, count};
    for (uint64_t i = 0; i < count; ++i)
      if (const void* one = list.get()[i]) out.push_back(read_struct(layout, one));
    return Value(std::move(out));
  }

  Value typed_value(const void* list, uint64_t count) {
    return Value(read_typed_list(static_cast<const abi::TypedParameter*>(list), count));
  }

  // Strings in parameters that lie in our room are libvirt's to allocate and ours to free.
  void free_typed_strings(void* memory, uint64_t count) {
    auto* list = static_cast<abi::TypedParameter*>(memory);
    for (uint64_t i = 0; i < count; ++i)
      if (list[i].type == abi::kString) std::free(std::exchange(list[i].value.s, nullptr));
  }

  std::optional<Value> output(size_t index, const Slot& returned) {
    const Param& param = function.params[index];
    Slot& slot = slots[index];
    const auto valid = [&] { return std::min(filled(index, returned), rooms[index]); };
    switch (param.kind) {
      case Kind::out_value:
        return read_scalar(param.scalar, slot.p);
      case Kind::out_string:
        return text_or_undefined(take_pointer<char>(index).get());
      case Kind::out_uuid:
        return Value(format_uuid(static_cast<const uint8_t*>(slot.p)));
      case Kind::out_uuid_string: {
        const auto* text = static_cast<const char*>(slot.p);
        return Value(std::string(text, ::strnlen(text, 37)));
      }
      case Kind::out_struct: {
        const Struct& layout = structs()[param.type];
        Value value = read_struct(layout, slot.p);
        free_owned_fields(layout, slot.p);
        return value;
      }
      case Kind::out_bytes: {
        // A stream's "would block" and "at a hole".
        if (param.filled == kReturn)
          if (const int64_t number = number_in(kReturn, returned); number < 0)
            return Value(static_cast<double>(number));
        const auto* bytes = static_cast<const uint8_t*>(slot.p);
        return Value(Bytes(bytes, bytes + valid()));
      }
      case Kind::out_strings: {
        Array out;
        auto* list = static_cast<char**>(slot.p);
        for (uint64_t i = 0, n = valid(); i < n; ++i)
          out.push_back(text_or_undefined(Owned<char>(list[i]).get()));
        return Value(std::move(out));
      }
      case Kind::out_values: {
        Array out;
        uint64_t count = filled(index, returned);
        if (param.times >= 0) count *= elements(index, param.times);
        const auto* list = static_cast<const std::byte*>(slot.p);
        for (uint64_t i = 0; i < std::min(count, rooms[index]); ++i)
          out.push_back(read_scalar(param.scalar, list + i * scalar_size(param.scalar)));
        return Value(std::move(out));
      }
      case Kind::out_structs: {
        const Struct& layout = structs()[param.type];
        Array out;
        auto* list = static_cast<std::byte*>(slot.p);
        for (uint64_t i = 0, n = valid(); i < n; ++i) {
          out.push_back(read_struct(layout, list + i * layout.size));
          free_owned_fields(layout, list + i * layout.size);
        }
        return Value(std::move(out));
      }
      case Kind::out_typed: {
        Value value = typed_value(slot.p, valid());
        free_typed_strings(slot.p, valid());
        return value;
      }
      case Kind::out_typed_matrix: {
        Array out;
        auto* list = static_cast<abi::TypedParameter*>(slot.p);
        const uint64_t width = elements(index, param.length);
        const uint64_t used = std::min(filled(index, returned), width);
        for (uint64_t row = 0; row < elements(index, param.times); ++row) {
          out.push_back(typed_value(list + row * width, used));
          free_typed_strings(list + row * width, used);
        }
        return Value(std::move(out));
      }
      case Kind::out_cpumaps: {
        Array out;
        const auto* bytes = static_cast<const uint8_t*>(slot.p);
        const uint64_t width = elements(index, param.length);
        uint64_t maps = elements(index, param.times);
        if (param.filled != kNone) maps = std::min(maps, filled(index, returned));
        for (uint64_t i = 0; i < maps; ++i)
          out.emplace_back(Bytes(bytes + i * width, bytes + (i + 1) * width));
        return Value(std::move(out));
      }
      case Kind::out_list_strings: {
        Array out;
        if (auto list = take_pointer<char*>(index))
          for (uint64_t i = 0, n = filled(index, returned); i < n; ++i)
            out.push_back(text_or_undefined(Owned<char>(list.get()[i]).get()));
        return Value(std::move(out));
      }
      case Kind::out_list_values: {
        Array out;
        if (auto list = take_pointer<std::byte>(index))
          for (uint64_t i = 0, n = filled(index, returned); i < n; ++i)
            out.push_back(read_scalar(param.scalar, list.get() + i * scalar_size(param.scalar)));
        return Value(std::move(out));
      }
      case Kind::out_list_handles: {
        Array out;
        const auto type = static_cast<Class>(param.type);
        if (auto list = take_pointer<void*>(index))
          for (uint64_t i = 0, n = filled(index, returned); i < n; ++i)
            if (list.get()[i]) out.emplace_back(HandleValue{type, Handle::adopt(type, list.get()[i])});
        return Value(std::move(out));
      }
      case Kind::out_list_structs:
        return struct_list(index, filled(index, returned));
      case Kind::out_array_structs: {
        const Struct& layout = structs()[param.type];
        Array out;
        if (auto list = take_pointer<std::byte>(index))
          for (uint64_t i = 0, n = filled(index, returned); i < n; ++i)
            out.push_back(read_struct(layout, list.get() + i * layout.size));
        return Value(std::move(out));
      }
      case Kind::out_list_typed: {
        auto list = take_pointer<abi::TypedParameter>(index);
        const uint64_t count = filled(index, returned);
        if (!list) return Value(Object());
        Value value = typed_value(list.get(), count);
        free_typed_strings(list.get(), count);
        return value;
      }
      case Kind::out_cpumap: {
        const auto map = take_pointer<uint8_t>(index);
        if (!map) return Value(Undefined{});
        return Value(Bytes(map.get(), map.get() + (filled(index, returned) + 7) / 8));
      }
      default:
        return std::nullopt;
    }
  }
};

Call::Call(const Function& function, const std::vector<Value>& arguments)
    : function_(function), memory_(std::make_unique<Memory>(function)) {
  static const Value missing{Undefined{}};
  size_t next = 0;
  for (size_t i = 0; i < function.params.size(); ++i) {
    if (!is_input(function.params[i].kind)) continue;
    memory_->set_input(i, next < arguments.size() ? arguments[next] : missing);
    ++next;
  }
  if (arguments.size() > next)
    throw Error("EINVAL", std::string(function.name) + ": takes " + std::to_string(next) +
                              " arguments, and there are " + std::to_string(arguments.size()));
  memory_->set_lengths();
}

Call::~Call() = default;

Value Call::run() {
  const auto opened = static_cast<Class>(function_.ret.type);
  if (function_.ret.result == Result::handle && (opened == Class::connect || opened == Class::adm_connect))
    claim_process(opened, function_.name);
  void* address = address_of(function_);
  Memory& memory = *memory_;
  reset_error();
  memory.count_capacities();
  memory.make_rooms();
  Slot returned{.ull = 0};
  reset_error();
  {
    const auto use = memory.use_of_stream();
    function_.thunk(address, memory.slots.data(), &returned);
  }
  if (memory.failed(returned)) {
    if (!function_.ret.checked || last_error_code() != 0) throw last_error(function_.name);
    return Value(Undefined{});
  }
  const bool returns = function_.ret.result != Result::nothing && function_.ret.result != Result::count;
  Object results;
  if (returns)
    results.emplace_back(function_.ret.name ? function_.ret.name : "", memory.returned_value(returned));
  for (size_t i = 0; i < memory.slots.size(); ++i)
    if (auto value = memory.output(i, returned))
      results.emplace_back(function_.params[i].name, std::move(*value));
  if (results.empty()) return Value(Undefined{});
  if (results.size() == 1) return std::move(results.front().second);
  return Value(std::move(results));
}

}  // namespace hypertwin::libvirt
