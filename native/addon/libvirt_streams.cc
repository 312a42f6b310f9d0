// Reading and writing of libvirt's streams, chunk by chunk.
#include <napi.h>

#include <cmath>
#include <memory>
#include <utility>

#include "libvirt/stream.h"
#include "libvirt_parts.h"
#include "libvirt_value.h"

namespace hypertwin::addon {

namespace {

using libvirt::Class;
using libvirt::StreamChunk;
using libvirt::StreamIo;

constexpr double kMostBytes = 16.0 * 1024 * 1024;

std::shared_ptr<StreamIo> stream_of(const Napi::CallbackInfo& info) {
  JsHandle& handle = open_handle(info[0], Class::stream, "the stream");
  if (!handle.stream) handle.stream = StreamIo::make(handle.handle);
  return handle.stream;
}

// The stream's object lives as long as what is done with it.
std::shared_ptr<Napi::ObjectReference> keep(const Napi::CallbackInfo& info) {
  return std::make_shared<Napi::ObjectReference>(Napi::Persistent(info[0].As<Napi::Object>()));
}

Napi::Value chunk_value(Napi::Env env, StreamChunk& chunk) {
  if (auto* bytes = std::get_if<libvirt::Bytes>(&chunk)) return to_js(env, libvirt::Value(std::move(*bytes)));
  if (const auto* hole = std::get_if<libvirt::StreamHole>(&chunk))
    return Napi::BigInt::New(env, hole->length);
  return env.Null();
}

// Arguments are converted before the stream is looked at: what JavaScript does meanwhile may close it.

// stream, most bytes, sparse; resolves with a Uint8Array, a hole's length as a bigint, or null at the end
Napi::Value receive(const Napi::CallbackInfo& info) {
  return rejecting(info.Env(), [&]() -> Napi::Value {
    const double most = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : 0;
    const bool sparse = info[2].ToBoolean();
    const auto stream = stream_of(info);
    if (!(most >= 1 && most <= kMostBytes))
      throw Error("EINVAL", "virStreamRecv: argument nbytes must be an integer from 1 to 16777216");
    auto [promise, settle] = settler<StreamChunk>(
        info.Env(),
        [kept = keep(info)](Napi::Env env, StreamChunk& chunk) { return chunk_value(env, chunk); });
    try {
      stream->read(static_cast<size_t>(most), sparse, [settle](StreamChunk chunk, std::exception_ptr error) {
        if (error)
          settle->reject(error);
        else
          settle->resolve(std::move(chunk));
      });
    } catch (...) {
      settle->reject(std::current_exception());
    }
    return promise;
  });
}

// A promise of undefined for what `start` begins on the stream.
template <class F>
Napi::Value begin(const Napi::CallbackInfo& info, F&& start) {
  return rejecting(info.Env(), [&]() -> Napi::Value {
    const auto stream = stream_of(info);
    auto [promise, settle] = settler<detail::None>(
        info.Env(),
        [kept = keep(info)](Napi::Env env, detail::None&) -> Napi::Value { return env.Undefined(); });
    try {
      start(*stream, [settle](std::exception_ptr error) {
        if (error)
          settle->reject(error);
        else
          settle->resolve({});
      });
    } catch (...) {
      settle->reject(std::current_exception());
    }
    return promise;
  });
}

// stream, bytes
Napi::Value send(const Napi::CallbackInfo& info) {
  return rejecting(info.Env(), [&]() -> Napi::Value {
    const libvirt::Value value = from_js(info[1]);
    return begin(info, [&](StreamIo& stream, StreamIo::Done done) {
      const auto* bytes = value.as<libvirt::Bytes>();
      if (!bytes)
        throw Error("EINVAL", "virStreamSend: argument data must be a Uint8Array; it is " + describe(value));
      stream.write(*bytes, std::move(done));
    });
  });
}

// stream, length as a bigint, flags
Napi::Value send_hole(const Napi::CallbackInfo& info) {
  return begin(info, [&](StreamIo& stream, StreamIo::Done done) {
    bool lossless = false;
    const int64_t length = info[1].IsBigInt() ? info[1].As<Napi::BigInt>().Int64Value(&lossless) : -1;
    if (!lossless || length < 0)
      throw Error("EINVAL", "virStreamSendHole: argument length must be a bigint from 0 to 2^63 - 1");
    stream.write_hole(length, info[2].IsNumber() ? info[2].As<Napi::Number>().Uint32Value() : 0,
                      std::move(done));
  });
}

// ---- events. A stream that waits for one keeps the process and its own object alive, as a read does; while
// nothing is waited for nothing does, so the function is the stream's own property and not the environment's.

Napi::Symbol listener_key(Napi::Env env) { return Napi::Symbol::For(env, "hypertwin.listener"); }

void start_listening(Napi::Env env, uint64_t id, const Napi::Object& stream) {
  if (libvirt_env(env).listening.emplace(id, Napi::Persistent(stream)).second) env_data(env).hold();
}

// The stream, or an empty value when it does not listen under this number any more.
Napi::Value stop_listening(Napi::Env env, uint64_t id) {
  auto node = libvirt_env(env).listening.extract(id);
  if (node.empty()) return {};
  env_data(env).release();
  return node.mapped().Value();
}

void tell(Napi::Env env, uint64_t id, int events) {
  const Napi::Value stream = stop_listening(env, id);
  if (stream.IsEmpty()) return;
  const Napi::Value listener = stream.As<Napi::Object>().Get(listener_key(env));
  if (listener.IsFunction()) listener.As<Napi::Function>().Call({Napi::Number::New(env, events)});
}

// stream, events, function or undefined: it is called with the events that hold, then not before rearm()
Napi::Value listen(const Napi::CallbackInfo& info) {
  return begin(info, [&](StreamIo& stream, StreamIo::Done done) {
    const Napi::Env env = info.Env();
    const double events = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : -1;
    if (!(events >= 0 && events <= 2147483647.0) || std::trunc(events) != events)
      throw Error("EINVAL", "virStreamEventAddCallback: argument events must be an OR of StreamEventType");
    JsHandle& handle = *handle_of(info[0]);
    forget_listener(env, handle);
    if (!info[2].IsFunction()) {
      stream.listen(0, nullptr, std::move(done));
      return;
    }
    auto object = info[0].As<Napi::Object>();
    object.DefineProperty(Napi::PropertyDescriptor::Value(
        listener_key(env), info[2],
        static_cast<napi_property_attributes>(napi_writable | napi_configurable)));
    const uint64_t id = handle.listener = libvirt_env(env).next_id++;
    if (events > 0) start_listening(env, id, object);
    auto queue = env_data(env).queue();
    stream.listen(
        static_cast<int>(events),
        [queue, id](int now) { queue->post([id, now](Napi::Env later) { tell(later, id, now); }); },
        [queue, id, done = std::move(done)](const std::exception_ptr& error) {
          if (error) queue->post([id](Napi::Env later) { stop_listening(later, id); });
          done(error);
        });
  });
}

Napi::Value rearm(const Napi::CallbackInfo& info) {
  JsHandle* handle = handle_of(info[0]);
  if (handle && handle->stream && handle->listener != 0 && handle->stream->rearm())
    start_listening(info.Env(), handle->listener, info[0].As<Napi::Object>());
  return info.Env().Undefined();
}

Napi::Value finish(const Napi::CallbackInfo& info) {
  if (JsHandle* handle = handle_of(info[0])) forget_listener(info.Env(), *handle);
  return begin(info, [](StreamIo& stream, StreamIo::Done done) { stream.finish(std::move(done)); });
}

Napi::Value abort(const Napi::CallbackInfo& info) {
  if (JsHandle* handle = handle_of(info[0])) forget_listener(info.Env(), *handle);
  return begin(info, [](StreamIo& stream, StreamIo::Done done) { stream.abort(std::move(done)); });
}

}  // namespace

void init_libvirt_streams(Napi::Env env, Napi::Object exports) {
  exports.Set("libvirtStreamRecv", Napi::Function::New(env, receive, "libvirtStreamRecv"));
  exports.Set("libvirtStreamSend", Napi::Function::New(env, send, "libvirtStreamSend"));
  exports.Set("libvirtStreamSendHole", Napi::Function::New(env, send_hole, "libvirtStreamSendHole"));
  exports.Set("libvirtStreamListen", Napi::Function::New(env, listen, "libvirtStreamListen"));
  exports.Set("libvirtStreamRearm", Napi::Function::New(env, rearm, "libvirtStreamRearm"));
  exports.Set("libvirtStreamFinish", Napi::Function::New(env, finish, "libvirtStreamFinish"));
  exports.Set("libvirtStreamAbort", Napi::Function::New(env, abort, "libvirtStreamAbort"));
}

}  // namespace hypertwin::addon
