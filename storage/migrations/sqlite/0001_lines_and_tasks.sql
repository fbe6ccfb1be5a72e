-- What every insert touches of a task. Small on purpose: its rows are rewritten by each insert.
CREATE TABLE tasks (
    task_key            INTEGER PRIMARY KEY,
    tenant              TEXT    NOT NULL,
    task_id             TEXT    NOT NULL,
    -- The current epoch and its base, copied from the record; 0 until one is put.
    epoch               INTEGER NOT NULL DEFAULT 0,
    base                INTEGER NOT NULL DEFAULT 0,
    -- First offset kept; rows below it were deleted by retention and never come back.
    floor               INTEGER NOT NULL DEFAULT 1,
    -- Last offset that counts, also when its row is deleted.
    "end"               INTEGER NOT NULL DEFAULT 0,
    last_created_at_ms  INTEGER NOT NULL DEFAULT 0,
    -- Not later than the oldest line kept; NULL if no line is. Retention finds its work by it.
    first_created_at_ms INTEGER,
    UNIQUE (tenant, task_id)
) STRICT;

CREATE INDEX tasks_oldest ON tasks (first_created_at_ms) WHERE first_created_at_ms IS NOT NULL;

-- The record as last put. Lists and dictionaries are JSON.
CREATE TABLE task_records (
    task_key      INTEGER PRIMARY KEY,
    tenant        TEXT    NOT NULL,
    task_id       TEXT    NOT NULL,
    version       INTEGER NOT NULL,
    workflow_id   TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    labels        TEXT    NOT NULL,
    attempt       INTEGER NOT NULL,
    attempt_base  INTEGER NOT NULL,
    dropped       INTEGER NOT NULL,
    status        TEXT    NOT NULL,
    exit_code     INTEGER,
    created_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL,
    ended_at_ms   INTEGER,
    epochs        TEXT    NOT NULL,
    producers     TEXT    NOT NULL
) STRICT;

CREATE INDEX task_records_newest ON task_records (created_at_ms DESC, tenant, task_id);
CREATE INDEX task_records_newest_of_tenant ON task_records (tenant, created_at_ms DESC, task_id);

-- The highest stored sequence number of each producer. Outlives the lines.
CREATE TABLE task_producers (
    task_key INTEGER NOT NULL,
    producer BLOB    NOT NULL,
    last_seq INTEGER NOT NULL,
    PRIMARY KEY (task_key, producer)
) STRICT, WITHOUT ROWID;

-- One row a line, clustered by its place in the task.
CREATE TABLE lines (
    task_key      INTEGER NOT NULL,
    "offset"      INTEGER NOT NULL,
    epoch         INTEGER NOT NULL,
    producer      BLOB    NOT NULL,
    seq           INTEGER NOT NULL,
    time_ns       INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    stream        INTEGER NOT NULL,
    level         INTEGER NOT NULL,
    -- 1: continued, 2: no newline followed.
    flags         INTEGER NOT NULL,
    update_id     INTEGER NOT NULL,
    fields        TEXT,
    message       TEXT    NOT NULL,
    -- The exact bytes where the text is not them.
    raw           BLOB,
    PRIMARY KEY (task_key, "offset")
) STRICT, WITHOUT ROWID;
