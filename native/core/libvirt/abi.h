// The structures and callbacks of libvirt's binary interface that the runtime itself handles; the generated
// tables know the rest. They are as libvirt has kept them since the version that brought them.
#pragma once

namespace hypertwin::libvirt::abi {

// virError, 0.1.0.
struct Error {
  int code;
  int domain;
  char* message;
  int level;
  void* connect;
  void* domain_object;
  char* str1;
  char* str2;
  char* str3;
  int int1;
  int int2;
  void* network;
};

// virTypedParameter, 0.9.2.
struct TypedParameter {
  char field[80];
  int type;
  union {
    int i;
    unsigned int ui;
    long long l;
    unsigned long long ul;
    double d;
    char b;
    char* s;
  } value;
};
enum TypedParameterType { kInt = 1, kUint, kLlong, kUllong, kDouble, kBoolean, kString };

// virConnectCredential, 0.4.1. `result` is allocated by malloc, and freed by libvirt.
struct Credential {
  int type;
  const char* prompt;
  const char* challenge;
  const char* default_result;
  char* result;
  unsigned int result_length;
};
using AuthCallback = int (*)(Credential*, unsigned int, void*);
// virConnectAuth, 0.4.1.
struct Auth {
  int* types;
  unsigned int count;
  AuthCallback callback;
  void* opaque;
};

// virDomainEventGraphicsAddress, virDomainEventGraphicsSubjectIdentity and -Subject, 0.8.0.
struct GraphicsAddress {
  int family;
  char* node;
  char* service;
};
struct GraphicsIdentity {
  char* type;
  char* name;
};
struct GraphicsSubject {
  int count;
  GraphicsIdentity* identities;
};

using FreeCallback = void (*)(void*);

}  // namespace hypertwin::libvirt::abi
