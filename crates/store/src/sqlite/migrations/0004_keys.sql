-- What the gate needs: permits with owner, token and deadline, outcomes under a
-- seal, and an order of use.
--
-- As in the first migration everything here holds with foreign keys off.

DROP INDEX idx_idempotency_keys_expires;
DROP INDEX idx_idempotency_keys_finished;
DROP TRIGGER idempotency_keys_begin;
DROP TRIGGER idempotency_keys_transition;
ALTER TABLE idempotency_keys RENAME TO idempotency_keys_before;

-- A key is pending under a permit, or has an outcome under a seal. A permit that
-- was begun under a work item's lease (`lease_item`, `lease_item_token`) lasts as
-- long as that lease; of any other `lease_deadline_us`, in microseconds of the
-- boot-time clock of boot `lease_boot_id`, decides. What is large stands last, so
-- that reading the other columns does not touch its pages.
CREATE TABLE idempotency_keys (
    key_id            INTEGER PRIMARY KEY,
    idempotency_key   TEXT NOT NULL UNIQUE CHECK (idempotency_key <> ''),
    status            TEXT NOT NULL CHECK (status IN ('pending', 'succeeded', 'failed')),
    task_id           TEXT,
    operation         TEXT,
    model             TEXT,
    request_digest    BLOB NOT NULL CHECK (length(request_digest) = 32),
    token             INTEGER NOT NULL CHECK (token >= 1),
    owner             TEXT,
    owner_incarnation TEXT,
    lease_item        INTEGER,
    lease_item_token  INTEGER,
    lease_expires_at  TEXT CHECK (lease_expires_at GLOB '????-??-?? ??:??:??.??????'),
    lease_boot_id     TEXT,
    lease_deadline_us INTEGER,
    created_at        TEXT NOT NULL CHECK (created_at GLOB '????-??-?? ??:??:??.??????'),
    updated_at        TEXT NOT NULL CHECK (updated_at GLOB '????-??-?? ??:??:??.??????'),
    used_at           TEXT NOT NULL CHECK (used_at GLOB '????-??-?? ??:??:??.??????'),
    expires_at        TEXT CHECK (expires_at GLOB '????-??-?? ??:??:??.??????'),
    is_cached         INTEGER GENERATED ALWAYS AS (idempotency_key GLOB 'llm-cache:*') VIRTUAL,
    outcome_bytes     INTEGER CHECK (outcome_bytes >= 0),
    seal              BLOB CHECK (length(seal) = 32),
    detail            TEXT,
    request           BLOB,
    outcome           BLOB,
    CHECK ((status = 'pending') = (owner IS NOT NULL)),
    CHECK ((owner IS NULL) = (owner_incarnation IS NULL)),
    CHECK ((owner IS NULL) = (lease_expires_at IS NULL)),
    CHECK ((owner IS NULL) = (lease_boot_id IS NULL)),
    CHECK ((owner IS NULL) = (lease_deadline_us IS NULL)),
    CHECK (owner IS NOT NULL OR lease_item IS NULL),
    CHECK ((lease_item IS NULL) = (lease_item_token IS NULL)),
    CHECK ((owner IS NULL) = (outcome IS NOT NULL)),
    CHECK ((outcome IS NULL) = (outcome_bytes IS NULL)),
    CHECK ((outcome IS NULL) = (seal IS NULL)),
    CHECK (outcome IS NOT NULL OR expires_at IS NULL)
) STRICT;

-- No version of the library wrote keys before this one. What others wrote is kept:
-- what is pending is in doubt, and an outcome without a seal is a damaged one.
INSERT INTO idempotency_keys (
    key_id, idempotency_key, status, task_id, operation, request_digest, token,
    owner, owner_incarnation, lease_expires_at, lease_boot_id, lease_deadline_us,
    created_at, updated_at, used_at, expires_at, outcome_bytes, seal, outcome)
SELECT
    key_id, idempotency_key, status, task_id, operation, request_digest, max(token, 1),
    iif(status = 'pending', coalesce(nullif(owner, ''), 'unknown'), NULL),
    iif(status = 'pending', 'unknown', NULL),
    iif(status = 'pending', updated_at, NULL),
    iif(status = 'pending', '', NULL),
    iif(status = 'pending', 0, NULL),
    created_at, updated_at, updated_at,
    iif(status = 'pending', NULL, expires_at),
    iif(status = 'pending', NULL, length(coalesce(outcome, x''))),
    iif(status = 'pending', NULL, coalesce(seal, zeroblob(32))),
    iif(status = 'pending', NULL, coalesce(outcome, x''))
FROM idempotency_keys_before;

DROP TABLE idempotency_keys_before;

-- Pending keys are in neither index of those that may go: what is in doubt is never
-- looked for to be removed, and costs nothing to pass over.
CREATE INDEX idx_idempotency_keys_expires
ON idempotency_keys(is_cached, expires_at)
WHERE expires_at IS NOT NULL AND status IN ('succeeded', 'failed');

-- The order of use. The bytes stand in it, so that summing them reads nothing else.
CREATE INDEX idx_idempotency_keys_finished
ON idempotency_keys(is_cached, used_at, key_id, outcome_bytes)
WHERE status IN ('succeeded', 'failed');

CREATE INDEX idx_idempotency_keys_pending
ON idempotency_keys(status) WHERE status = 'pending';

CREATE INDEX idx_idempotency_keys_task
ON idempotency_keys(task_id) WHERE task_id IS NOT NULL;

CREATE TRIGGER idempotency_keys_begin BEFORE INSERT ON idempotency_keys
WHEN NEW.status <> 'pending'
BEGIN
    SELECT RAISE(ABORT, 'a key begins as pending');
END;

CREATE TRIGGER idempotency_keys_transition BEFORE UPDATE OF status ON idempotency_keys
WHEN OLD.status <> NEW.status AND NOT (
    (OLD.status = 'pending' AND NEW.status IN ('succeeded', 'failed'))
    OR (OLD.status IN ('succeeded', 'failed') AND NEW.status = 'pending')
)
BEGIN
    SELECT RAISE(ABORT, 'no such transition of a key');
END;

CREATE TRIGGER idempotency_keys_token_grows BEFORE UPDATE OF token ON idempotency_keys
WHEN NEW.token < OLD.token
BEGIN
    SELECT RAISE(ABORT, 'a token never goes back');
END;

-- What is recorded is recorded once: another outcome needs another execution.
CREATE TRIGGER idempotency_keys_token_of_execution BEFORE UPDATE OF status ON idempotency_keys
WHEN NEW.status = 'pending' AND OLD.status <> 'pending' AND NEW.token <= OLD.token
BEGIN
    SELECT RAISE(ABORT, 'each execution has a token of its own');
END;

-- A number is given once, also when the newest key is deleted, by whomever: a permit
-- names a key by its number, and must never fit another one.
CREATE TABLE key_counter (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    last_deleted INTEGER NOT NULL CHECK (last_deleted >= 0)
) STRICT;

INSERT INTO key_counter (one, last_deleted) VALUES (1, 0);

CREATE TRIGGER idempotency_keys_ids_are_given_once AFTER INSERT ON idempotency_keys
WHEN NEW.key_id < 1
    OR NEW.key_id <= (SELECT last_deleted FROM key_counter WHERE one = 1)
BEGIN
    SELECT RAISE(ABORT, 'the number of a key is given once');
END;

CREATE TRIGGER idempotency_keys_ids_stay BEFORE UPDATE OF key_id ON idempotency_keys
WHEN NEW.key_id <> OLD.key_id
BEGIN
    SELECT RAISE(ABORT, 'the number of a key is given once');
END;

CREATE TRIGGER idempotency_keys_ids_are_kept AFTER DELETE ON idempotency_keys
BEGIN
    UPDATE key_counter SET last_deleted = OLD.key_id
    WHERE one = 1 AND last_deleted < OLD.key_id;
END;

CREATE TRIGGER key_counter_grows BEFORE UPDATE ON key_counter
WHEN NEW.last_deleted < OLD.last_deleted
BEGIN
    SELECT RAISE(ABORT, 'the number of a key is given once');
END;
