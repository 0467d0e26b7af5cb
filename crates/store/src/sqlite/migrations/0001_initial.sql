-- The five tables that operators know, and what they need beside them.
--
-- Everything here must be read by a sqlite3 shell as old as 3.40, and must hold
-- with foreign keys off: children go by trigger, and triggers refuse every
-- transition that the state machines do not have. Timestamps are UTC text that
-- compares with CURRENT_TIMESTAMP.

CREATE TABLE schema_migrations (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    digest     BLOB NOT NULL CHECK (length(digest) = 32),
    applied_at TEXT NOT NULL CHECK (applied_at GLOB '????-??-?? ??:??:??.??????')
) STRICT;

-- Tasks ---------------------------------------------------------------------

CREATE TABLE tasks (
    task_key   INTEGER PRIMARY KEY,
    task_id    TEXT NOT NULL UNIQUE CHECK (task_id <> ''),
    task_type  TEXT NOT NULL CHECK (task_type <> ''),
    status     TEXT NOT NULL
               CHECK (status IN ('created', 'running', 'succeeded', 'failed', 'cancelled')),
    metadata   TEXT CHECK (json_valid(metadata)),
    created_at TEXT NOT NULL CHECK (created_at GLOB '????-??-?? ??:??:??.??????'),
    updated_at TEXT NOT NULL CHECK (updated_at GLOB '????-??-?? ??:??:??.??????')
) STRICT;

CREATE INDEX idx_tasks_status ON tasks(status, task_key);

CREATE TRIGGER tasks_begin BEFORE INSERT ON tasks
WHEN NEW.status <> 'created'
BEGIN
    SELECT RAISE(ABORT, 'a task begins as created');
END;

CREATE TRIGGER tasks_transition BEFORE UPDATE OF status ON tasks
WHEN OLD.status <> NEW.status AND NOT (
    (OLD.status = 'created' AND NEW.status IN ('running', 'failed', 'cancelled'))
    OR (OLD.status = 'running' AND NEW.status IN ('succeeded', 'failed', 'cancelled'))
    OR (OLD.status = 'failed' AND NEW.status IN ('running', 'cancelled'))
)
BEGIN
    SELECT RAISE(ABORT, 'no such transition of a task');
END;

CREATE TRIGGER tasks_delete_children AFTER DELETE ON tasks
BEGIN
    DELETE FROM checkpoints WHERE task_id = OLD.task_id;
    DELETE FROM checkpoint_counters WHERE task_id = OLD.task_id;
    DELETE FROM work_items WHERE task_id = OLD.task_id;
END;

CREATE TABLE task_audits (
    audit_id    INTEGER PRIMARY KEY,
    task_id     TEXT,
    event       TEXT NOT NULL CHECK (event <> ''),
    from_status TEXT,
    to_status   TEXT,
    reason      TEXT,
    detail      TEXT CHECK (json_valid(detail)),
    created_at  TEXT NOT NULL CHECK (created_at GLOB '????-??-?? ??:??:??.??????')
) STRICT;

CREATE INDEX idx_task_audits_task ON task_audits(task_id, audit_id);

-- Checkpoints ---------------------------------------------------------------

-- The numbers outlive the checkpoints: pruning gives none of them back.
CREATE TABLE checkpoint_counters (
    task_id       TEXT PRIMARY KEY,
    last_sequence INTEGER NOT NULL CHECK (last_sequence >= 0)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER checkpoint_counters_grow BEFORE UPDATE ON checkpoint_counters
WHEN NEW.last_sequence <= OLD.last_sequence
BEGIN
    SELECT RAISE(ABORT, 'a number is given once');
END;

-- The snapshot stands last, so that reading the other columns of a row does
-- not touch its pages.
CREATE TABLE checkpoints (
    checkpoint_id   INTEGER PRIMARY KEY,
    task_id         TEXT NOT NULL REFERENCES tasks(task_id),
    sequence_number INTEGER NOT NULL CHECK (sequence_number >= 1),
    checkpoint_type TEXT NOT NULL CHECK (checkpoint_type IN (
        'iteration_start', 'iteration_end', 'tool_executed', 'llm_response',
        'approval_point', 'state_transition', 'manual_checkpoint', 'error_boundary')),
    verification    TEXT NOT NULL CHECK (verification IN ('unverified', 'verified', 'failed')),
    created_at      TEXT NOT NULL CHECK (created_at GLOB '????-??-?? ??:??:??.??????'),
    codec           INTEGER,
    state_version   INTEGER,
    state_bytes     INTEGER,
    state_digest    BLOB CHECK (length(state_digest) = 32),
    seal            BLOB NOT NULL CHECK (length(seal) = 32),
    metadata        TEXT,
    evidence        TEXT,
    snapshot        BLOB,
    CHECK ((snapshot IS NULL) = (codec IS NULL)),
    CHECK ((snapshot IS NULL) = (state_version IS NULL)),
    CHECK ((snapshot IS NULL) = (state_bytes IS NULL)),
    CHECK ((snapshot IS NULL) = (state_digest IS NULL)),
    CHECK (checkpoint_type <> 'error_boundary' OR snapshot IS NULL)
) STRICT;

CREATE UNIQUE INDEX idx_checkpoints_task_seq ON checkpoints(task_id, sequence_number DESC);

CREATE TABLE evidence_results (
    checkpoint_id INTEGER NOT NULL REFERENCES checkpoints(checkpoint_id),
    item          INTEGER NOT NULL CHECK (item >= 0),
    kind          TEXT NOT NULL CHECK (kind <> ''),
    outcome       TEXT NOT NULL CHECK (outcome IN ('passed', 'failed')),
    reason        TEXT,
    checked_at    TEXT NOT NULL CHECK (checked_at GLOB '????-??-?? ??:??:??.??????'),
    PRIMARY KEY (checkpoint_id, item)
) STRICT, WITHOUT ROWID;

-- Before the row itself, so that it also holds with foreign keys on.
CREATE TRIGGER checkpoints_delete_children BEFORE DELETE ON checkpoints
BEGIN
    DELETE FROM evidence_results WHERE checkpoint_id = OLD.checkpoint_id;
END;

-- Work items ----------------------------------------------------------------

-- `lease_token` is the fencing token: it grows with every claim and is never
-- reset. The text columns of a lease are for people; `lease_deadline_us`, in
-- microseconds of the boot-time clock of boot `lease_boot_id`, decides.
CREATE TABLE work_items (
    work_item_id      INTEGER PRIMARY KEY,
    task_id           TEXT REFERENCES tasks(task_id),
    work_type         TEXT NOT NULL CHECK (work_type <> ''),
    status            TEXT NOT NULL CHECK (
                      status IN ('pending', 'in_progress', 'succeeded', 'failed', 'cancelled')),
    priority          INTEGER NOT NULL DEFAULT 0,
    unique_key        TEXT UNIQUE,
    attempts          INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    max_attempts      INTEGER NOT NULL CHECK (max_attempts >= 1),
    losses            INTEGER NOT NULL DEFAULT 0 CHECK (losses >= 0),
    available_at      TEXT NOT NULL CHECK (available_at GLOB '????-??-?? ??:??:??.??????'),
    lease_holder      TEXT,
    lease_incarnation TEXT,
    lease_token       INTEGER NOT NULL DEFAULT 0 CHECK (lease_token >= 0),
    lease_acquired_at TEXT CHECK (lease_acquired_at GLOB '????-??-?? ??:??:??.??????'),
    lease_expires_at  TEXT CHECK (lease_expires_at GLOB '????-??-?? ??:??:??.??????'),
    lease_boot_id     TEXT,
    lease_deadline_us INTEGER,
    last_error        TEXT,
    created_at        TEXT NOT NULL CHECK (created_at GLOB '????-??-?? ??:??:??.??????'),
    updated_at        TEXT NOT NULL CHECK (updated_at GLOB '????-??-?? ??:??:??.??????'),
    result            BLOB,
    payload           BLOB,
    CHECK (attempts <= max_attempts),
    CHECK ((status = 'in_progress') = (lease_holder IS NOT NULL)),
    CHECK ((lease_holder IS NULL) = (lease_incarnation IS NULL)),
    CHECK ((lease_holder IS NULL) = (lease_acquired_at IS NULL)),
    CHECK ((lease_holder IS NULL) = (lease_expires_at IS NULL)),
    CHECK ((lease_holder IS NULL) = (lease_boot_id IS NULL)),
    CHECK ((lease_holder IS NULL) = (lease_deadline_us IS NULL))
) STRICT;

CREATE INDEX idx_work_items_lease
ON work_items(lease_expires_at) WHERE status = 'in_progress';
CREATE INDEX idx_work_items_status_priority ON work_items(status, priority DESC);
CREATE INDEX idx_work_items_task ON work_items(task_id) WHERE task_id IS NOT NULL;

CREATE TRIGGER work_items_begin BEFORE INSERT ON work_items
WHEN NEW.status <> 'pending'
BEGIN
    SELECT RAISE(ABORT, 'a work item begins as pending');
END;

CREATE TRIGGER work_items_transition BEFORE UPDATE OF status ON work_items
WHEN OLD.status <> NEW.status AND NOT (
    (OLD.status = 'pending' AND NEW.status IN ('in_progress', 'cancelled'))
    OR (OLD.status = 'in_progress'
        AND NEW.status IN ('pending', 'succeeded', 'failed', 'cancelled'))
    OR (OLD.status = 'failed' AND NEW.status = 'pending')
)
BEGIN
    SELECT RAISE(ABORT, 'no such transition of a work item');
END;

CREATE TRIGGER work_items_token_grows BEFORE UPDATE OF lease_token ON work_items
WHEN NEW.lease_token < OLD.lease_token
BEGIN
    SELECT RAISE(ABORT, 'a fencing token never goes back');
END;

-- Idempotency keys ------------------------------------------------------------

-- No task row is needed: a task, where given, scopes and links.
CREATE TABLE idempotency_keys (
    key_id          INTEGER PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE CHECK (idempotency_key <> ''),
    status          TEXT NOT NULL CHECK (status IN ('pending', 'succeeded', 'failed')),
    task_id         TEXT,
    operation       TEXT,
    request_digest  BLOB NOT NULL CHECK (length(request_digest) = 32),
    owner           TEXT,
    token           INTEGER NOT NULL DEFAULT 0 CHECK (token >= 0),
    created_at      TEXT NOT NULL CHECK (created_at GLOB '????-??-?? ??:??:??.??????'),
    updated_at      TEXT NOT NULL CHECK (updated_at GLOB '????-??-?? ??:??:??.??????'),
    expires_at      TEXT CHECK (expires_at GLOB '????-??-?? ??:??:??.??????'),
    seal            BLOB CHECK (length(seal) = 32),
    outcome         BLOB
) STRICT;

CREATE INDEX idx_idempotency_keys_expires
ON idempotency_keys(expires_at) WHERE expires_at IS NOT NULL;

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
