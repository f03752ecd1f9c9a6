-- Wireshark's dissector of RUM: packets of ethertype 0x88B5 and of UDP port 21069.
--
--   wireshark -X lua_script:tools/rum.lua capture.pcapng
--   tshark -X lua_script:tools/rum.lua -r capture.pcapng -V
--
-- The formats are those of rum-net/src/wire: header.rs, hello.rs and message/*.rs. They stand in tables here, so that a
-- change there is a line here. A message of several packets is decoded as far as its first one goes.

local ETHERTYPE = 0x88B5
local UDP_PORT = 21069
local MAGIC = 0x4D52
local VERSION = 1
local PAGE_BYTES = 4096
local MAX_BATCH_PAGES = 32

local rum = Proto("rum", "RUM far memory")

local function set(list)
    local found = {}
    for _, value in ipairs(list) do found[value] = true end
    return found
end

-- Names of values -----------------------------------------------------------------------------------------------------

local KINDS = {
    [1] = "Hello", [2] = "HelloAck", [3] = "Request", [4] = "Response", [5] = "Probe", [6] = "Status", [7] = "Ack",
    [8] = "Reset", [9] = "KeepAlive", [10] = "Bye", [11] = "HelloRetry",
}
local OPCODES = {
    [1] = "stat", [2] = "reserve", [3] = "release", [4] = "read", [5] = "write", [6] = "open name",
    [7] = "name extents", [8] = "free name", [9] = "renew", [10] = "bye", [11] = "command", [12] = "ask", [13] = "peer",
    [14] = "describe", [15] = "names",
}
local STATUSES = {
    [0] = "Ok", [1] = "Full", [2] = "StaleExtent", [3] = "NotOwner", [4] = "NoSuchName", [5] = "SizeDiffers",
    [6] = "Malformed", [7] = "Fenced", [8] = "Unsupported", [9] = "OutOfRange", [10] = "NotLeader",
}
local VERDICTS = {
    [0] = "Granted", [1] = "Full", [2] = "KeyNeeded", [3] = "KeyRefused", [4] = "NoKeys", [5] = "Taken",
}
local LEADERS = { [0xFFFF] = "unknown" }
local PAGE_KINDS = { [0] = "zeros", [1] = "data" }
local FLAGS = {
    { 1, "answers_probe", "Answers a probe" }, { 2, "executing", "Is being executed" }, { 4, "wants_ack", "Wants an ack" },
    { 8, "sealed", "Sealed" }, { 16, "unsummed", "Payload has no checksum" },
}
local SEALED, UNSUMMED = 8, 16

local HELLO, HELLO_ACK, REQUEST, RESPONSE, PROBE, STATUS, ACK, HELLO_RETRY = 1, 2, 3, 4, 5, 6, 7, 11
local CARRY_MESSAGE = set { REQUEST, RESPONSE }
-- How many sets of fragments at least and at most.
local FRAGMENT_SETS = { [PROBE] = { 1, 1 }, [STATUS] = { 1, 1 }, [ACK] = { 0, 2 } }
local FRAGMENT_SET_BYTES = 16
local OK, SIZE_DIFFERS, NOT_LEADER = 0, 5, 10
local COMMAND, ASK, PEER = 11, 12, 13
-- Of these the second byte alone is reserved.
local SHORT_HEADS = set { COMMAND, ASK, PEER }
local GRANTED = 0

-- Layouts: name, type, what it is, names of its values, names of some of its values ----------------------------------------------------------------
-- Types: u8 u16 u32 u64, x32 x64 (in hexadecimal), u128, hash and tag (bytes), bool, and zeroN for N reserved bytes.

local HEADER = {
    { "checksum", "x32", "Checksum (CRC32C)" },
    { "magic", "x16", "Magic" },
    { "version", "u8", "Version" },
    { "kind", "u8", "Kind", KINDS },
    { "session", "x64", "Session" },
    { "request", "u64", "Request" },
    { "message_bytes", "u32", "Bytes of the message" },
    { "offset", "u32", "Offset in the message" },
    { "idle", "x32", "Idle slots" },
    { "ahead", "u16", "Ahead" },
    { "window", "u16", "Window" },
    { "payload_bytes", "u16", "Bytes of payload" },
    { "flags", "x16", "Flags" },
}
-- What `idle` is in a response.
local HELD = { "held", "u32", "Nanoseconds for which the server had the request" }
-- Follows the payload of a sealed packet.
local TRAILER = { { "counter", "u64", "Counter" }, { "tag", "tag", "Tag" } }
local PAYLOADS = {
    [HELLO] = {
        { "hello.client", "u128", "Client's incarnation" },
        { "hello.mtu", "u32", "MTU" },
        { "hello.slots", "u32", "Slots" },
        { "hello.channel", "u32", "Channel" },
        { "hello.cookie", "u128", "Cookie" },
        { "hello.name_bytes", "u8", "Bytes of the name" },
        { "hello.handshake_bytes", "u8", "Bytes of the handshake" },
        { rest_of = "hello.name_bytes", field = "hello.name" },
        { rest_of = "hello.handshake_bytes", field = "handshake" },
    },
    [HELLO_ACK] = {
        { "hello_ack.client", "u128", "Client's incarnation" },
        { "hello_ack.verdict", "u8", "Verdict", VERDICTS },
        { "hello_ack.handshake_bytes", "u8", "Bytes of the handshake" },
        "grant",
        { rest_of = "hello_ack.handshake_bytes", field = "handshake" },
    },
    [HELLO_RETRY] = {
        { "hello_retry.client", "u128", "Client's incarnation" },
        { "hello_retry.cookie", "u128", "Cookie" },
    },
}
-- In a hello-ack that grants a session in the clear.
local GRANT = {
    { "grant.server", "u128", "Server's incarnation" },
    { "grant.session", "x64", "Session" },
    { "grant.mtu", "u32", "MTU" },
    { "grant.slots", "u32", "Slots" },
}
local REQUEST_HEAD = { { "opcode", "u8", "Opcode", OPCODES }, { "reserved", "zero3", "Reserved" } }
local SHORT_RESERVED = { "reserved", "zero1", "Reserved" }
local RESPONSE_HEAD = { { "status", "u8", "Status", STATUSES }, { "reserved", "zero7", "Reserved" } }
local EXTENT = { { "extent.index", "u32", "Index" }, { "extent.generation", "u32", "Generation" } }
local PAGE = { EXTENT[1], EXTENT[2], { "page.number", "u32", "Page" } }

-- `list` stands for a count and so many entries; `kinds` for a byte for each page; `data` for 4 KiB for each page of data;
-- `request` for another request, and `messages` for what slaves say to each other, both to the end.
local REQUESTS = {
    [1] = {},
    [2] = { { "count", "u32", "Count" } },
    [3] = { { list = EXTENT, name = "extent", title = "Extent", bytes = 8, max = 4096 } },
    [4] = { { list = PAGE, name = "page", title = "Page", bytes = 12, max = MAX_BATCH_PAGES } },
    [5] = { { list = PAGE, name = "page", title = "Page", bytes = 12, max = MAX_BATCH_PAGES }, "kinds", "data" },
    [6] = {
        { "create", "bool", "Create" }, { "reserved", "zero3", "Reserved" }, { "size", "u64", "Size in bytes" },
        { "hash", "hash", "Name" },
    },
    [7] = { { "from", "u32", "From extent" }, { "hash", "hash", "Name" } },
    [8] = { { "hash", "hash", "Name" } },
    [9] = {},
    [10] = {},
    [COMMAND] = {
        SHORT_RESERVED, { "group", "u16", "Group" }, { "sequence", "u64", "Sequence" }, { "settled", "u64", "Settled" },
        "request",
    },
    [ASK] = { { "of_any", "bool", "Of any" }, { "group", "u16", "Group" }, "request" },
    [PEER] = { SHORT_RESERVED, { "sender", "u16", "Sender" }, "messages" },
    [14] = {},
    [15] = { { "is_after", "bool", "Is after" }, { "reserved", "zero3", "Reserved" }, { "after", "hash", "After" } },
}
local EXTENTS = { list = EXTENT, name = "extent", title = "Extent", bytes = 8, max = 4096 }
local NAME = { { "size", "u64", "Size in bytes" }, { "hash", "hash", "Name" } }
local RESPONSES = {
    [1] = {
        { "stat.incarnation", "u128", "Slave's incarnation" },
        { "stat.capacity", "u64", "Capacity in extents" },
        { "stat.reserved", "u64", "Reserved extents" },
        { "stat.used", "u64", "Used pages" },
        { "stat.sessions", "u64", "Sessions" },
        { "stat.lease_ms", "u64", "Lease in ms" },
    },
    [2] = { EXTENTS },
    [3] = {},
    [4] = { "kinds", "data" },
    [5] = {},
    [6] = {
        { "size", "u64", "Size in bytes" }, { "total", "u32", "Extents of the object" }, { "existed", "bool", "Existed" },
        { "reserved", "zero3", "Reserved" }, EXTENTS,
    },
    [7] = { EXTENTS },
    [8] = {},
    [9] = {},
    [10] = {},
    [PEER] = { "messages" },
    [14] = { "messages" },
    [15] = { { "names", "u32", "Names" }, { "reserved", "zero4", "Reserved" }, "names" },
}
-- What follows a status other than Ok.
local REFUSALS = {
    [SIZE_DIFFERS] = { { "size", "u64", "Existing size in bytes" } },
    [NOT_LEADER] = { { "leader", "u16", "Leader", nil, LEADERS }, { "reserved", "zero6", "Reserved" } },
}

-- Fields --------------------------------------------------------------------------------------------------------------

local TYPES = {
    u8 = { 1, ProtoField.uint8, base.DEC }, u16 = { 2, ProtoField.uint16, base.DEC },
    u32 = { 4, ProtoField.uint32, base.DEC }, u64 = { 8, ProtoField.uint64, base.DEC },
    x16 = { 2, ProtoField.uint16, base.HEX }, x32 = { 4, ProtoField.uint32, base.HEX },
    x64 = { 8, ProtoField.uint64, base.HEX }, bool = { 1, ProtoField.uint8, base.DEC },
    u128 = { 16, ProtoField.bytes }, tag = { 16, ProtoField.bytes }, hash = { 32, ProtoField.bytes },
    zero1 = { 1, ProtoField.bytes }, zero3 = { 3, ProtoField.bytes }, zero4 = { 4, ProtoField.bytes }, zero6 = { 6, ProtoField.bytes }, zero7 = { 7, ProtoField.bytes },
}
local fields = {}

local function add_field(name, field)
    fields[name] = field
end

local function define(layout)
    for _, item in ipairs(layout) do
        if type(item) == "table" and item.list then
            define(item.list)
        elseif type(item) == "table" and item[1] and not fields[item[1]] then
            local kind = TYPES[item[2]]
            local abbreviation = "rum." .. item[1]
            if kind[3] then
                add_field(item[1], kind[2](abbreviation, item[3], kind[3], item[4] or item[5]))
            else
                add_field(item[1], kind[2](abbreviation, item[3]))
            end
        end
    end
end

for _, layout in ipairs { HEADER, TRAILER, GRANT, REQUEST_HEAD, RESPONSE_HEAD, { HELD } } do define(layout) end
for _, table_of_layouts in ipairs { PAYLOADS, REQUESTS, RESPONSES, REFUSALS } do
    for _, layout in pairs(table_of_layouts) do define(layout) end
end
for _, flag in ipairs(FLAGS) do
    add_field("flag." .. flag[2], ProtoField.bool("rum.flag." .. flag[2], flag[3], 16, nil, flag[1]))
end
add_field("list_count", ProtoField.uint32("rum.list_count", "Count"))
add_field("page_kind", ProtoField.uint8("rum.page_kind", "Kind of page", base.DEC, PAGE_KINDS))
add_field("data", ProtoField.bytes("rum.data", "Page's data"))
add_field("hello.name", ProtoField.string("rum.hello.name", "Client's name"))
add_field("messages", ProtoField.bytes("rum.messages", "Messages of slaves"))
add_field("handshake", ProtoField.bytes("rum.handshake", "Message of the handshake"))
add_field("encrypted", ProtoField.bytes("rum.encrypted", "Encrypted payload"))
add_field("fragments", ProtoField.string("rum.fragments", "Fragments that are there"))
add_field("fragments_lost", ProtoField.string("rum.fragments_lost", "Fragments that are lost"))
add_field("fragment", ProtoField.bytes("rum.fragment", "Later part of a message"))
add_field("padding", ProtoField.bytes("rum.padding", "Padding"))
add_field("checksum_status", ProtoField.uint8("rum.checksum_status", "Checksum is", base.DEC, { [0] = "wrong", [1] = "good" }))
add_field("answer_to", ProtoField.uint8("rum.answer_to", "Answer to", base.DEC, OPCODES))
add_field("request_in", ProtoField.framenum("rum.request_in", "Request in", base.NONE, frametype.REQUEST))
add_field("response_in", ProtoField.framenum("rum.response_in", "Response in", base.NONE, frametype.RESPONSE))
add_field("time", ProtoField.relative_time("rum.time", "Time since the request"))

for _, field in pairs(fields) do table.insert(rum.fields, field) end

local experts = {
    checksum = ProtoExpert.new("rum.bad_checksum", "Wrong checksum", expert.group.CHECKSUM, expert.severity.ERROR),
    malformed = ProtoExpert.new("rum.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR),
    refused = ProtoExpert.new("rum.refused", "Refused", expert.group.RESPONSE_CODE, expert.severity.NOTE),
}
for _, one in pairs(experts) do table.insert(rum.experts, one) end

-- CRC32C (Castagnoli; RFC 3720, appendix B.4) -------------------------------------------------------------------------

local band, bxor, rshift = bit.band, bit.bxor, bit.rshift
local CRC_TABLE = {}
for byte = 0, 255 do
    local crc = byte
    for _ = 1, 8 do
        local low = band(crc, 1)
        crc = rshift(crc, 1)
        if low == 1 then crc = bxor(crc, 0x82F63B78) end
    end
    CRC_TABLE[byte] = crc
end

local function crc32c(bytes)
    local crc = 0xFFFFFFFF
    for at = 1, #bytes do
        crc = bxor(rshift(crc, 8), CRC_TABLE[band(bxor(crc, bytes:byte(at)), 0xFF)])
    end
    return bxor(crc, 0xFFFFFFFF) % 0x100000000
end

-- Reading -------------------------------------------------------------------------------------------------------------

-- Takes fields off the front of `range`. When `is_whole` is false the range is the beginning of a message, and its end is
-- no mistake.
local Reader = {}
Reader.__index = Reader

function Reader.new(range, tree, is_whole)
    return setmetatable({ range = range, at = 0, tree = tree, is_whole = is_whole, is_over = false, values = {} }, Reader)
end

function Reader:left()
    return self.range:len() - self.at
end

function Reader:complain(what)
    self.tree:add_proto_expert_info(experts.malformed, what)
    self.is_over = true
end

-- The next bytes; nil at the end.
function Reader:take(bytes, what)
    if self.is_over then return nil end
    if self:left() < bytes then
        if self.is_whole then self:complain("Too short for " .. what) end
        self.is_over = true
        return nil
    end
    local range = self.range(self.at, bytes)
    self.at = self.at + bytes
    return range
end

-- Reads one field into `tree`, and returns its value when it is a number.
function Reader:field(item, tree)
    local name, kind, title, names = item[1], item[2], item[3], item[4]
    local bytes = TYPES[kind][1]
    local range = self:take(bytes, title)
    if not range then return nil end
    tree:add_le(fields[name], range)
    if kind:sub(1, 4) == "zero" then
        if range:bytes():tohex():find("[^0]") then self:complain("A reserved byte is not zero") end
        return nil
    end
    if bytes > 8 then return nil end
    if bytes == 8 then return range:le_uint64() end
    local value = range:le_uint()
    if names and not names[value] then self:complain("Unknown " .. title:lower() .. " " .. value) end
    self.values[name] = value
    if kind == "bool" and value > 1 then self:complain(title .. " is neither 0 nor 1") end
    return value
end

function Reader:list(item)
    local count_range = self:take(4, "a count")
    if not count_range then return end
    local count = count_range:le_uint()
    self.tree:add_le(fields.list_count, count_range)
    if count > item.max then return self:complain("Count out of range: " .. count) end
    self.count = count
    for number = 0, count - 1 do
        if self.is_over then return end
        local length = math.min(item.bytes, self:left())
        if length == 0 then
            self:take(1, item.title)
            return
        end
        local subtree = self.tree:add(rum, self.range(self.at, length), item.title .. " " .. number)
        for _, entry in ipairs(item.list) do self:field(entry, subtree) end
    end
end

function Reader:kinds()
    self.data_pages = 0
    for number = 0, MAX_BATCH_PAGES - 1 do
        local range = self:take(1, "a kind of page")
        if not range then return end
        local kind = range:uint()
        if self.count == nil or number < self.count then
            self.tree:add(fields.page_kind, range)
            if not PAGE_KINDS[kind] then return self:complain("Unknown kind of page " .. kind) end
        elseif kind ~= 0 then
            return self:complain("A kind beyond the count")
        end
        self.data_pages = self.data_pages + kind
    end
end

-- As many as came before; the rest may be in other packets.
function Reader:names()
    for number = 0, (self.values["names"] or 0) - 1 do
        if self.is_over then return end
        if self:left() == 0 then return self:take(1, "a name") end
        local subtree = self.tree:add(rum, self.range(self.at, math.min(40, self:left())), "Name " .. number)
        for _, entry in ipairs(NAME) do self:field(entry, subtree) end
    end
end

function Reader:data()
    for _ = 1, self.data_pages or 0 do
        if self:left() < PAGE_BYTES and not self.is_whole then
            -- The rest is in other packets.
            if self:left() > 0 then self.tree:add(fields.data, self.range(self.at, self:left())) end
            self.at = self.range:len()
            return
        end
        local range = self:take(PAGE_BYTES, "a page")
        if not range then return end
        self.tree:add(fields.data, range)
    end
end

-- As many bytes as an earlier field says.
function Reader:rest_of(item)
    local bytes = self.values[item.rest_of] or 0
    local range = bytes > 0 and self:take(bytes, "what " .. item.rest_of .. " says")
    if range then self.tree:add(fields[item.field], range) end
end

-- What a hello-ack grants, unless the handshake hides it.
function Reader:grant()
    if self.values["hello_ack.verdict"] == GRANTED and self.values["hello_ack.handshake_bytes"] == 0 then
        self:layout(GRANT)
    end
end

-- What slaves say to each other is only shown: postcard of the types in rum-slave/src/group/message.rs.
function Reader:messages()
    local range = self:left() > 0 and self:take(self:left(), "messages")
    if range then self.tree:add(fields.messages, range) end
end

-- A request in another.
function Reader:request()
    if self.is_over then return end
    if self:left() == 0 then return self:take(1, "a request") end
    local range = self:take(self:left(), "a request")
    local inner = Reader.new(range, self.tree:add(rum, range, "Request"), self.is_whole)
    inner.is_inner = true
    self.inner = inner:any_request()
    self.count = inner.count
end

-- From the opcode to the end. Returns the opcode if it is known.
function Reader:any_request()
    local opcode = self:field(REQUEST_HEAD[1], self.tree)
    if opcode == nil or not REQUESTS[opcode] then return nil end
    if not SHORT_HEADS[opcode] then
        self:field(REQUEST_HEAD[2], self.tree)
    elseif self.is_inner then
        self:complain("A " .. OPCODES[opcode] .. " in another request")
    end
    self:layout(REQUESTS[opcode])
    self:finish()
    return opcode
end

function Reader:layout(layout)
    for _, item in ipairs(layout) do
        if item == "kinds" then
            self:kinds()
        elseif item == "names" then
            self:names()
        elseif item == "data" then
            self:data()
        elseif item == "grant" then
            self:grant()
        elseif item == "request" then
            self:request()
        elseif item == "messages" then
            self:messages()
        elseif item.rest_of then
            self:rest_of(item)
        elseif item.list then
            self:list(item)
        else
            self:field(item, self.tree)
        end
    end
end

function Reader:finish()
    if not self.is_over and self:left() > 0 then self:complain(self:left() .. " bytes too many") end
end

-- Requests and their responses ----------------------------------------------------------------------------------------

-- By session and request: number of the packet, its time, its opcode and count, and the packet of the response.
local conversations = {}

function rum.init()
    conversations = {}
end

local function conversation(values)
    local key = tostring(values.session) .. "/" .. tostring(values.request)
    local found = conversations[key]
    if not found then
        found = {}
        conversations[key] = found
    end
    return found
end

-- A request's name, and that of the one in it.
local function named(entry)
    return OPCODES[entry.opcode] .. (entry.inner and ": " .. OPCODES[entry.inner] or "")
end

local function request(range, tree, is_whole, entry, pinfo)
    local reader = Reader.new(range, tree, is_whole)
    local opcode = reader:any_request()
    if not opcode then return "" end
    if not entry.request_in then
        entry.request_in, entry.request_at = pinfo.number, pinfo.abs_ts
    end
    entry.opcode, entry.inner, entry.count = opcode, reader.inner, reader.count
    if entry.response_in then tree:add(fields.response_in, entry.response_in):set_generated() end
    return " " .. named(entry)
end

local function response(range, tree, is_whole, entry, pinfo)
    local about = ""
    if entry.opcode then
        tree:add(fields.answer_to, entry.opcode):set_generated()
        if entry.inner then tree:add(fields.answer_to, entry.inner):set_generated() end
        tree:add(fields.request_in, entry.request_in):set_generated()
        local seconds = pinfo.abs_ts - entry.request_at
        local nanoseconds = math.floor((seconds % 1) * 1e9)
        tree:add(fields.time, NSTime.new(math.floor(seconds), nanoseconds)):set_generated()
        entry.response_in = entry.response_in or pinfo.number
        about = " to " .. named(entry)
    end
    local reader = Reader.new(range, tree, is_whole)
    reader.count = entry.count
    local status = reader:field(RESPONSE_HEAD[1], tree)
    reader:field(RESPONSE_HEAD[2], tree)
    if status == nil or not STATUSES[status] then return about end
    if status ~= OK then
        tree:add_proto_expert_info(experts.refused, "Refused: " .. STATUSES[status])
        reader:layout(REFUSALS[status] or {})
        reader:finish()
    elseif entry.opcode and RESPONSES[entry.inner or entry.opcode] then
        reader:layout(RESPONSES[entry.inner or entry.opcode])
        reader:finish()
    end
    return about .. ", " .. STATUSES[status]
end

-- The numbers of a set's bits, the lowest first, runs as FIRST-LAST.
local function numbers(set)
    local runs, first = {}, nil
    for number = 0, 8 * FRAGMENT_SET_BYTES do
        local is_in = number < 8 * FRAGMENT_SET_BYTES
            and band(rshift(set(math.floor(number / 8), 1):uint(), number % 8), 1) == 1
        if is_in then
            first = first or number
        elseif first then
            runs[#runs + 1] = first == number - 1 and tostring(first) or first .. "-" .. number - 1
            first = nil
        end
    end
    return #runs > 0 and table.concat(runs, " ") or "none"
end

local function fragment_sets(range, tree, kind)
    local least, most = FRAGMENT_SETS[kind][1], FRAGMENT_SETS[kind][2]
    local count = range:len() / FRAGMENT_SET_BYTES
    if count ~= math.floor(count) or count < least or count > most then
        tree:add_proto_expert_info(experts.malformed, "Sets of fragments have 16 bytes, and here are " .. range:len())
        return ""
    end
    local names = { "fragments", "fragments_lost" }
    local about = ""
    for at = 0, count - 1 do
        local one = range(at * FRAGMENT_SET_BYTES, FRAGMENT_SET_BYTES)
        local list = numbers(one)
        tree:add(fields[names[at + 1]], one, list)
        about = about .. (at == 0 and ", has " or ", lost ") .. list
    end
    return about
end

local function payload(values, range, tree, pinfo)
    local kind = values.kind
    if PAYLOADS[kind] then
        local reader = Reader.new(range, tree, true)
        reader:layout(PAYLOADS[kind])
        local verdict = VERDICTS[reader.values["hello_ack.verdict"]]
        if verdict then return ", " .. verdict end
    elseif FRAGMENT_SETS[kind] then
        return fragment_sets(range, tree, kind)
    elseif CARRY_MESSAGE[kind] then
        if values.offset > 0 then
            tree:add(fields.fragment, range)
            return ", from byte " .. values.offset
        end
        local message = tree:add(rum, range, "Message")
        local is_whole = range:len() >= values.message_bytes
        local decode = kind == REQUEST and request or response
        return decode(range, message, is_whole, conversation(values), pinfo)
    end
    return ""
end

-- Packets -------------------------------------------------------------------------------------------------------------

local HEADER_BYTES = 0
for _, item in ipairs(HEADER) do HEADER_BYTES = HEADER_BYTES + TYPES[item[2]][1] end
local TRAILER_BYTES = 0
for _, item in ipairs(TRAILER) do TRAILER_BYTES = TRAILER_BYTES + TYPES[item[2]][1] end
local NEED_PAYLOAD = set { HELLO, HELLO_ACK, HELLO_RETRY, REQUEST, RESPONSE, PROBE, STATUS }

local function header(range, tree)
    local reader, values = Reader.new(range, tree, true), {}
    for _, item in ipairs(HEADER) do
        if item[1] == "idle" and values.kind == RESPONSE then item = HELD end
        values[item[1]] = reader:field(item, tree)
    end
    for _, flag in ipairs(FLAGS) do tree:add_le(fields["flag." .. flag[2]], range(HEADER_BYTES - 2, 2)) end
    return values
end

local function is_sealed(values)
    return band(values.flags, SEALED) ~= 0
end

-- Checks length and checksum; false when the rest is not to be believed.
local function is_sound(buffer, values, tree)
    local bytes = HEADER_BYTES + values.payload_bytes + (is_sealed(values) and TRAILER_BYTES or 0)
    if buffer:reported_len() < bytes then
        tree:add_proto_expert_info(experts.malformed, "Cut short: the header says " .. bytes .. " bytes")
        return false
    end
    if is_sealed(values) then
        -- Its tag covers all of it, and only who has the keys can check it.
        if values.checksum ~= 0 then tree:add_proto_expert_info(experts.checksum, "A sealed packet has no checksum") end
        return values.checksum == 0
    end
    if buffer:len() < bytes then return true end
    local is_unsummed = band(values.flags, UNSUMMED) ~= 0 and CARRY_MESSAGE[values.kind]
    local summed = is_unsummed and HEADER_BYTES or bytes
    local is_good = crc32c(buffer(4, summed - 4):raw()) == values.checksum
    tree:add(fields.checksum_status, buffer(0, 4), is_good and 1 or 0):set_generated()
    if not is_good then tree:add_proto_expert_info(experts.checksum, "Wrong checksum") end
    return is_good
end

-- Shows what follows the header; returns where it ends.
local function body(buffer, values, tree, pinfo)
    local bytes = math.min(values.payload_bytes, buffer:len() - HEADER_BYTES)
    local finish = HEADER_BYTES + bytes
    if is_sealed(values) then
        pinfo.cols.info:append(", sealed")
        if bytes > 0 then tree:add(fields.encrypted, buffer(HEADER_BYTES, bytes)) end
        if buffer:len() < finish + TRAILER_BYTES then return buffer:len() end
        Reader.new(buffer(finish, TRAILER_BYTES), tree, true):layout(TRAILER)
        return finish + TRAILER_BYTES
    end
    if bytes > 0 then
        pinfo.cols.info:append(payload(values, buffer(HEADER_BYTES, bytes), tree, pinfo))
    elseif values.payload_bytes == 0 and NEED_PAYLOAD[values.kind] then
        tree:add_proto_expert_info(experts.malformed, "No payload")
    end
    return finish
end

function rum.dissector(buffer, pinfo, root)
    pinfo.cols.protocol = "RUM"
    local tree = root:add(rum, buffer())
    if buffer:len() < HEADER_BYTES then
        pinfo.cols.info = "Cut short"
        tree:add_proto_expert_info(experts.malformed, "Shorter than a header")
        return
    end
    local values = header(buffer(0, HEADER_BYTES), tree)
    if values.magic ~= MAGIC or values.version ~= VERSION then
        pinfo.cols.info = "Not RUM of version " .. VERSION
        tree:add_proto_expert_info(experts.malformed, "Not RUM of version " .. VERSION)
        return
    end
    local name = KINDS[values.kind] or ("kind " .. values.kind)
    pinfo.cols.info = name .. " " .. tostring(values.request)
    tree:append_text(", " .. name .. ", session 0x" .. values.session:tohex() .. ", request " .. tostring(values.request))
    if not is_sound(buffer, values, tree) then
        pinfo.cols.info:append(" [damaged]")
        return
    end
    local finish = body(buffer, values, tree, pinfo)
    if finish < buffer:len() then tree:add(fields.padding, buffer(finish)) end
end

DissectorTable.get("ethertype"):add(ETHERTYPE, rum)
DissectorTable.get("udp.port"):add(UDP_PORT, rum)
