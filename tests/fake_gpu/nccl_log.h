// What the library reads from its environment, and what it logs.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unistd.h>
#include <utility>

static std::string setting(const char* name) {
  const char* text = getenv(name);
  return text ? text : "";
}

static std::string last_error;
static FILE* log_file;
static std::string level, subsystems;
static bool unread = true;  // its variables for the log

// Reads its variables at the first message, and at the first one after a reset.
static void say(const char* subsystem, const char* format, ...) {
  if (std::exchange(unread, false)) {
    if (log_file && log_file != stdout) fclose(log_file);
    level = setting("NCCL_DEBUG"), subsystems = setting("NCCL_DEBUG_SUBSYS");
    if (subsystems.empty()) subsystems = "INIT,BOOTSTRAP,ENV";
    const std::string path = setting("NCCL_DEBUG_FILE");
    log_file = path.empty() ? stdout : fopen(path.c_str(), "w");
    setlinebuf(log_file);
  }
  if (level != "INFO" || subsystems.find(subsystem) == std::string::npos) return;
  va_list arguments;
  va_start(arguments, format);
  fprintf(log_file, "host:%d:%d [0] NCCL INFO ", getpid(), getpid());
  vfprintf(log_file, format, arguments);
  fputc('\n', log_file);
  va_end(arguments);
}

static int fail(int status, const std::string& words) {
  last_error = words;
  return status;
}

// The protocol of a call of so many bytes on a communicator that read `own`. As in RCCL's
// rcclUpdateCollectiveProtocol, which looks for the variable once in a process.
static std::string chosen_protocol(const std::string& own, size_t bytes) {
  static const std::string chosen =
      setting("NCCL_PROTO").empty() ? setting("FAKE_NCCL_CHOOSES") : "";
  const size_t colon = chosen.find(':');
  if (colon != std::string::npos && bytes > (size_t)atol(chosen.c_str() + colon + 1))
    return own.empty() ? "LL128" : own;
  return chosen.empty() ? own : chosen.substr(0, colon);
}
