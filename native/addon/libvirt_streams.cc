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

StreamIo& stream_of(const Napi::CallbackInfo& info) {
  JsHandle& handle = open_handle(info[0], Class::stream, "the stream");
  if (!handle.stream) handle.stream = StreamIo::make(handle.handle);
  return *handle.stream;
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

// stream, most bytes, sparse; resolves with a Uint8Array, a hole's length as a bigint, or null at the end
Napi::Value receive(const Napi::CallbackInfo& info) {
  return rejecting(info.Env(), [&]() -> Napi::Value {
    StreamIo& stream = stream_of(info);
    const double most = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : 0;
    if (!(most >= 1 && most <= kMostBytes))
      throw Error("EINVAL", "virStreamRecv: argument nbytes must be an integer from 1 to 16777216");
    auto [promise, settle] = settler<StreamChunk>(
        info.Env(),
        [kept = keep(info)](Napi::Env env, StreamChunk& chunk) { return chunk_value(env, chunk); });
    try {
      stream.read(static_cast<size_t>(most), info[2].ToBoolean(),
                  [settle](StreamChunk chunk, std::exception_ptr error) {
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

// A promise of undefined for what `begin` begins.
template <class F>
Napi::Value begin(const Napi::CallbackInfo& info, F&& start) {
  return rejecting(info.Env(), [&]() -> Napi::Value {
    StreamIo& stream = stream_of(info);
    auto [promise, settle] = settler<detail::None>(
        info.Env(),
        [kept = keep(info)](Napi::Env env, detail::None&) -> Napi::Value { return env.Undefined(); });
    try {
      start(stream, [settle](std::exception_ptr error) {
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
  return begin(info, [&](StreamIo& stream, StreamIo::Done done) {
    const libvirt::Value value = from_js(info[1]);
    const auto* bytes = value.as<libvirt::Bytes>();
    if (!bytes)
      throw Error("EINVAL", "virStreamSend: argument data must be a Uint8Array; it is " + describe(value));
    stream.write(*bytes, std::move(done));
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

// stream, events, function or undefined: it is called with the events that hold, then not before rearm()
Napi::Value listen(const Napi::CallbackInfo& info) {
  return begin(info, [&](StreamIo& stream, StreamIo::Done done) {
    LibvirtEnv& own = libvirt_env(info.Env());
    JsHandle& handle = *handle_of(info[0]);
    forget_listener(info.Env(), handle);
    StreamIo::Notify notify;
    if (info[2].IsFunction()) {
      const uint64_t id = handle.listener = own.next_id++;
      env_data(info.Env()).hold();
      own.listeners.emplace(id, Napi::Persistent(info[2].As<Napi::Function>()));
      notify = [queue = env_data(info.Env()).queue(), id](int events) {
        queue->post([id, events](Napi::Env env) {
          auto& listeners = libvirt_env(env).listeners;
          const auto found = listeners.find(id);
          if (found != listeners.end()) found->second.Value().Call({Napi::Number::New(env, events)});
        });
      };
    }
    stream.listen(info[1].ToNumber().Int32Value(), std::move(notify), std::move(done));
  });
}

Napi::Value rearm(const Napi::CallbackInfo& info) {
  JsHandle* handle = handle_of(info[0]);
  if (handle && handle->stream) handle->stream->rearm();
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
