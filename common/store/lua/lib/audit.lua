-- What the journal is told of calls (common/domain/audit_call.py). Uses of the script around it: prefix, heads.

-- The text of a call, behind the head of its message, which ends at `last`; nil for a call that is not audited.
local function told_of(message, last)
  return string.match(message, '^","audit":"([^"]*)"', last + 1)
end

-- Writes an event of a call into the journal.
local function tell(kind, head, call, ...)
  redis.call('XADD', prefix .. 'audit', '*', 'kind', kind, 'invocation', decoded(head.id), 'tool', decoded(head.tool),
    'call', call, ...)
end

-- Whether the journal holds as many events as it may (0: any number). Nothing but calls is refused for it.
local function journal_full(most)
  return most ~= '0' and redis.call('XLEN', prefix .. 'audit') >= tonumber(most)
end
