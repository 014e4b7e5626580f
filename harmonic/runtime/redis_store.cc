#include <sodium.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <list>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "harmonic/runtime/redis_connection.h"

namespace harmonic {
namespace {

constexpr int kTries = 2;  // of a write: with the states that are not known there, with all
constexpr std::string_view kCheckpoint = "at:";  // and a name: the field of a checkpoint
constexpr int64_t kLargestState = 256 << 20;     // half of what Redis takes as one value

// Redis runs a script whole, alone, or not at all. Those that write count the sessions and checkpoints that
// have a state, and drop it with the last of them.
//
// Writes a session under one or more ids. Words: the beginning of its owner's keys, the key of the count, the
// revision that is replaced ("0": none), a number of this write, how many ids, states and words of fields
// follow; the ids; the name and bytes of each state, without the bytes where they should be there; the
// fields.
constexpr std::string_view kPut = R"(
local prefix, all, before, write = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ids, states, words = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local at = 7
for i = 1, ids do
  local found = redis.call('HMGET', prefix .. 'session:' .. ARGV[at + i], 'revision', 'write')
  if found[2] == write then return 'done' end
  if (found[1] or '0') ~= before then return 'changed' end
end
local first = at + ids
for i = 1, states do
  if ARGV[first + 2 * i] == '' and redis.call('EXISTS', prefix .. 'state:' .. ARGV[first + 2 * i - 1]) == 0 then
    return 'missing'
  end
end
for i = 1, states do
  if ARGV[first + 2 * i] ~= '' then
    redis.call('HSETNX', prefix .. 'state:' .. ARGV[first + 2 * i - 1], 'bytes', ARGV[first + 2 * i])
  end
end
local fields = {unpack(ARGV, first + 2 * states + 1, first + 2 * states + words)}
local uses = {}
local function count(list, by)
  for i = 1, #list, 2 do
    if list[i] == 'state' or string.sub(list[i], 1, 3) == 'at:' then
      uses[list[i + 1]] = (uses[list[i + 1]] or 0) + by
    end
  end
end
for i = 1, ids do
  local key = prefix .. 'session:' .. ARGV[at + i]
  local old = redis.call('HGETALL', key)
  count(old, -1)
  if #old > 0 then
    redis.call('DEL', key)
  else
    redis.call('ZADD', prefix .. 'ids', 0, ARGV[at + i])
    redis.call('INCR', all)
  end
  redis.call('HSET', key, unpack(fields))
  count(fields, 1)
end
for name, by in pairs(uses) do
  local key = prefix .. 'state:' .. name
  if by ~= 0 and redis.call('HINCRBY', key, 'uses', by) <= 0 then redis.call('DEL', key) end
end
return 'done'
)";

// Reads a session: the beginning of its owner's keys, its id, and names of states that are known. Its fields,
// and the names and bytes of the states that are not known; two empty lists where there is none.
constexpr std::string_view kLoad = R"(
local fields, states, known = redis.call('HGETALL', ARGV[1] .. 'session:' .. ARGV[2]), {}, {}
for i = 3, #ARGV do known[ARGV[i]] = true end
for i = 1, #fields, 2 do
  local name = fields[i + 1]
  if (fields[i] == 'state' or string.sub(fields[i], 1, 3) == 'at:') and not known[name] then
    known[name] = true
    states[#states + 1] = name
    states[#states + 1] = redis.call('HGET', ARGV[1] .. 'state:' .. name, 'bytes') or ''
  end
end
return {fields, states}
)";

// Lists sessions: the beginning of their owner's keys, after which id, at most how many. Four words each.
constexpr std::string_view kList = R"(
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYLEX', ARGV[1] .. 'ids', ARGV[2], '+', 'LIMIT', 0, ARGV[3])) do
  local fields = redis.call('HMGET', ARGV[1] .. 'session:' .. id, 'parent', 'created', 'used')
  found[#found + 1] = id
  for i = 1, 3 do found[#found + 1] = fields[i] end
end
return found
)";

// A Redis that is full refuses a script at its first command that may take memory, and none that comes after
// one that was let through: what takes none comes first here, and sessions can be ended to make room.
//
// Ends a session: the beginning of its owner's keys, the key of the count, its id. Whether there was one,
// though not where the connection breaks off between two tries.
constexpr std::string_view kErase = R"(
local key = ARGV[1] .. 'session:' .. ARGV[3]
local old = redis.call('HGETALL', key)
if #old == 0 then return 0 end
redis.call('DEL', key)
for i = 1, #old, 2 do
  if old[i] == 'state' or string.sub(old[i], 1, 3) == 'at:' then
    local state = ARGV[1] .. 'state:' .. old[i + 1]
    if redis.call('HINCRBY', state, 'uses', -1) <= 0 then redis.call('DEL', state) end
  end
end
redis.call('ZREM', ARGV[1] .. 'ids', ARGV[3])
redis.call('DECR', ARGV[2])
return 1
)";

std::string hex(const unsigned char* bytes, size_t count) {
  std::string text(2 * count + 1, '\0');
  ::sodium_bin2hex(text.data(), text.size(), bytes, count);
  text.pop_back();
  return text;
}

// A state's name is what it holds: the same on every server, and never another state's.
std::string name_of(std::string_view bytes) {
  std::array<unsigned char, 32> hash;
  ::crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const unsigned char*>(bytes.data()),
                       bytes.size(), nullptr, 0);
  return hex(hash.data(), hash.size());
}

// The states used last, by name. Not thread-safe.
class KnownPoints {
 public:
  explicit KnownPoints(int64_t memory) : memory_(memory) {}

  // Null where it is not known.
  Session::Point find(const std::string& name) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second);
    return found->second->point;
  }
  // Empty where it is not known.
  std::string name_of(const Session::Point& point) const {
    const auto found = by_point_.find(point.get());
    return found == by_point_.end() ? std::string() : found->second->name;
  }
  void keep(const std::string& name, const Session::Point& point) {
    if (find(name)) return;
    order_.push_front({name, point});
    by_name_[name] = by_point_[point.get()] = order_.begin();
    bytes_ += bytes_of(*point);
    while (bytes_ > memory_ && order_.size() > 1) {
      bytes_ -= bytes_of(*order_.back().point);
      by_name_.erase(order_.back().name);
      by_point_.erase(order_.back().point.get());
      order_.pop_back();
    }
  }
  int64_t bytes() const { return bytes_; }

 private:
  struct Known {
    std::string name;
    Session::Point point;
  };
  static int64_t bytes_of(const TextPoint& point) { return point.state.bytes() + 512; }

  const int64_t memory_;
  std::list<Known> order_;  // the last used first
  std::unordered_map<std::string, std::list<Known>::iterator> by_name_;
  std::unordered_map<const TextPoint*, std::list<Known>::iterator> by_point_;
  int64_t bytes_ = 0;
};

// Keys begin with the model and the owner, so that neither sees anything of another's (docs/formats.md).
class RedisStore : public SessionStore {
 public:
  RedisStore(const RedisOptions& options, const Model& model, const std::string& identity, int64_t memory)
      : model_(model),
        model_keys_("harmonic:" + identity + ":"),
        count_key_(model_keys_ + "sessions"),
        redis_(options),
        known_(memory) {
    if (model.state_layout().bytes() > kLargestState)
      fail_usage(
          "{}: a state of this model has {} bytes; Redis is given at most {}; keep the sessions in a file "
          "(--sessions sqlite:FILE)",
          redis_.address(), model.state_layout().bytes(), kLargestState);
    count();  // whether it is there, and lets us in
  }

  void save(Session session) override { put(session, {session.id}, session.revision); }
  void add(const Session& like, const std::vector<std::string>& ids) override { put(like, ids, 0); }

  std::optional<Session> load(const std::string& owner, const std::string& id) override {
    const std::string prefix = keys_of(owner), key = prefix + "session:" + id;
    RedisValue fields = redis_.ask({"HGETALL", key});
    if (list_in(fields).list.empty()) return {};
    std::map<std::string, Session::Point> states = known_states(fields);
    if (std::any_of(states.begin(), states.end(), [](const auto& state) { return !state.second; })) {
      // The session and what is not known are taken together: it may go on elsewhere meanwhile.
      RedisConnection::Words words = {"EVAL", kLoad, "0", prefix, id};
      for (const auto& [name, point] : states)
        if (point) words.push_back(name);
      RedisValue loaded = redis_.ask(words);
      if (list_in(loaded).list.size() != 2) fail_kind("a session and states");
      const RedisValue& others = list_in(loaded.list[1]);
      for (size_t i = 0; i + 1 < others.list.size(); i += 2)
        states[text_in(others.list[i])] = point_of(others.list[i].text, text_in(others.list[i + 1]));
      fields = std::move(loaded.list[0]);
      if (list_in(fields).list.empty()) return {};
    }
    Session session;
    session.owner = owner;
    session.id = id;
    each_field(fields, [&](const std::string& name, const std::string& value) {
      if (name == "parent") session.parent = value;
      if (name == "created") session.created = number_in(value);
      if (name == "used") session.used = number_in(value);
      if (name == "revision") session.revision = number_in(value);
      if (name == "state") session.point = states[value];
      if (name.starts_with(kCheckpoint)) session.checkpoints[name.substr(kCheckpoint.size())] = states[value];
    });
    if (!session.point) fail_kind("a state");
    return session;
  }

  bool erase(const std::string& owner, const std::string& id) override {
    const RedisValue ended = redis_.ask({"EVAL", kErase, "0", keys_of(owner), count_key_, id});
    if (ended.kind != RedisValue::Kind::number) fail_kind("the end");
    return ended.number == 1;
  }

  std::vector<Session> list(const std::string& owner, const std::string& after, int64_t limit) override {
    const std::string from = after.empty() ? "-" : "(" + after, most = std::to_string(limit);
    const RedisValue found = redis_.ask({"EVAL", kList, "0", keys_of(owner), from, most});
    std::vector<Session> sessions;
    for (size_t i = 0; i + 3 < list_in(found).list.size(); i += 4) {
      Session& session = sessions.emplace_back();
      session.owner = owner;
      session.id = text_in(found.list[i]);
      session.parent = text_in(found.list[i + 1]);
      session.created = number_in(text_in(found.list[i + 2]));
      session.used = number_in(text_in(found.list[i + 3]));
    }
    return sessions;
  }

  int64_t count() const override {
    const RedisValue value = redis_.ask({"GET", count_key_});
    return value.kind == RedisValue::Kind::nothing ? 0 : number_in(text_in(value));
  }

  int64_t count_of(const std::string& owner) const override {
    const RedisValue value = redis_.ask({"ZCARD", keys_of(owner) + "ids"});
    if (value.kind != RedisValue::Kind::number) fail_kind("a number");
    return value.number;
  }

  int64_t bytes_in_memory() const override {
    const std::lock_guard lock(mutex_);
    return known_.bytes();
  }

 private:
  std::string keys_of(const std::string& owner) const { return model_keys_ + owner + ":"; }

  void put(const Session& session, const std::vector<std::string>& ids, int64_t before) {
    if (ids.empty()) return;
    std::map<std::string, Session::Point> states;
    std::vector<std::string> fields = {
        "revision", std::to_string(before + 1),      "parent", session.parent,
        "created",  std::to_string(session.created), "used",   std::to_string(session.used)};
    const auto add = [&](std::string field, const Session::Point& point) {
      const std::string name = name_of_point(point);
      states[name] = point;
      fields.push_back(std::move(field));
      fields.push_back(name);
    };
    add("state", session.point);
    for (const auto& [name, point] : session.checkpoints) add(std::string(kCheckpoint) + name, point);
    // By which a write is known again that came through before the connection broke off.
    unsigned char write[16];
    ::randombytes_buf(write, sizeof write);
    fields.push_back("write");
    fields.push_back(hex(write, sizeof write));

    std::vector<std::string> words = {"EVAL",
                                      std::string(kPut),
                                      "0",
                                      keys_of(session.owner),
                                      count_key_,
                                      std::to_string(before),
                                      fields.back(),
                                      std::to_string(ids.size()),
                                      std::to_string(states.size()),
                                      std::to_string(fields.size())};
    words.insert(words.end(), ids.begin(), ids.end());
    const size_t first = words.size();
    for (const auto& [name, point] : states) {
      words.push_back(name);
      words.push_back(is_known(name) ? std::string() : encode_point(*point));
    }
    words.insert(words.end(), fields.begin(), fields.end());
    for (int i = 0; i < kTries; ++i) {
      const std::string answer = text_in(redis_.ask({words.begin(), words.end()}));
      if (answer == "changed") throw Changed{};
      if (answer == "done") {
        const std::lock_guard lock(mutex_);
        for (const auto& [name, point] : states) known_.keep(name, point);
        return;
      }
      // The last session with a state that is known here has ended elsewhere.
      size_t at = first;
      for (const auto& [name, point] : states) words[(at += 2) - 1] = encode_point(*point);
    }
    fail("{}: an answer that its script does not give", redis_.address());
  }

  std::string name_of_point(const Session::Point& point) const {
    {
      const std::lock_guard lock(mutex_);
      if (const std::string name = known_.name_of(point); !name.empty()) return name;
    }
    return name_of(encode_point(*point));
  }
  bool is_known(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return known_.find(name) != nullptr;
  }

  // The states that a session's fields name, each once; null where it is not known here.
  std::map<std::string, Session::Point> known_states(const RedisValue& fields) {
    std::map<std::string, Session::Point> states;
    const std::lock_guard lock(mutex_);
    each_field(fields, [&](const std::string& name, const std::string& value) {
      if (name == "state" || name.starts_with(kCheckpoint)) states[value] = known_.find(value);
    });
    return states;
  }

  Session::Point point_of(const std::string& name, const std::string& bytes) {
    if (name_of(bytes) != name)
      fail(
          "{}: damaged: the bytes of the state {} are not those that were written; does Redis drop keys "
          "(maxmemory-policy)?",
          redis_.address(), name);
    const auto point = decode_kept(model_, bytes, redis_.address());
    const std::lock_guard lock(mutex_);
    known_.keep(name, point);
    return point;
  }

  // --- replies, which are as they should be or an error ---

  template <typename Use>
  void each_field(const RedisValue& fields, const Use& use) const {
    for (size_t i = 0; i + 1 < fields.list.size(); i += 2)
      use(text_in(fields.list[i]), text_in(fields.list[i + 1]));
  }

  const std::string& text_in(const RedisValue& value) const {
    if (value.kind != RedisValue::Kind::text) fail_kind("a text");
    return value.text;
  }
  const RedisValue& list_in(const RedisValue& value) const {
    if (value.kind != RedisValue::Kind::list) fail_kind("a list");
    return value;
  }
  int64_t number_in(const std::string& text) const {
    int64_t number = 0;
    const char* last = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), last, number);
    if (error != std::errc() || stop != last) fail_kind("a number");
    return number;
  }
  [[noreturn]] void fail_kind(const char* expected) const {
    fail("{}: damaged: expected {} of a session and found something else; are these keys of another program?",
         redis_.address(), expected);
  }

  const Model& model_;
  const std::string model_keys_, count_key_;
  mutable RedisConnection redis_;
  mutable std::mutex mutex_;
  KnownPoints known_;  // under the mutex
};

}  // namespace

std::unique_ptr<SessionStore> make_redis_store(const RedisOptions& options, const Model& model,
                                               const std::string& identity, int64_t memory) {
  return std::make_unique<RedisStore>(options, model, identity, memory);
}

}  // namespace harmonic
