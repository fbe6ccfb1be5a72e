-- What every insert touches of a task. Its rows are rewritten by each insert, within their page (room is left for that).
CREATE TABLE tasks (
    task_key            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant              text COLLATE "C" NOT NULL,
    task_id             text COLLATE "C" NOT NULL,
    -- The current epoch and its base, copied from the record; 0 until one is put.
    epoch               bigint NOT NULL DEFAULT 0,
    base                bigint NOT NULL DEFAULT 0,
    -- First offset kept; rows below it were deleted by retention and never come back.
    floor               bigint NOT NULL DEFAULT 1,
    -- Last offset that counts, also when its row is deleted. No row has a greater one.
    "end"               bigint NOT NULL DEFAULT 0,
    -- Of all rows ever inserted: between them lie the partitions that a read has to look into. NULL: none ever was.
    first_created_at    timestamptz,
    last_created_at     timestamptz,
    UNIQUE (tenant, task_id)
) WITH (fillfactor = 50);

-- The record as last put. Lists and dictionaries are JSON.
CREATE TABLE task_records (
    task_key      bigint PRIMARY KEY,
    tenant        text COLLATE "C" NOT NULL,
    task_id       text COLLATE "C" NOT NULL,
    version       bigint NOT NULL,
    workflow_id   text NOT NULL,
    name          text NOT NULL,
    labels        text NOT NULL,
    attempt       bigint NOT NULL,
    attempt_base  bigint NOT NULL,
    dropped       bigint NOT NULL,
    status        text COLLATE "C" NOT NULL,
    exit_code     integer,
    created_at_ms bigint NOT NULL,
    started_at_ms bigint NOT NULL,
    ended_at_ms   bigint,
    epochs        text NOT NULL,
    producers     text NOT NULL
) WITH (fillfactor = 70);

CREATE INDEX task_records_newest ON task_records (created_at_ms DESC, tenant, task_id);
CREATE INDEX task_records_newest_of_tenant ON task_records (tenant, created_at_ms DESC, task_id);

-- The highest stored sequence number of each producer. Outlives the lines.
CREATE TABLE task_producers (
    task_key bigint NOT NULL,
    producer bytea  NOT NULL,
    last_seq bigint NOT NULL,
    PRIMARY KEY (task_key, producer)
) WITH (fillfactor = 50);

-- One row a line, in a partition for each UTC day of created_at. The keys are those of the partitions: one of the whole
-- table would have to contain created_at. Columns of fixed width come first, so that no room is lost between them.
CREATE TABLE task_logs (
    task_key   bigint      NOT NULL,
    "offset"   bigint      NOT NULL,
    epoch      bigint      NOT NULL,
    seq        bigint      NOT NULL,
    time_ns    bigint      NOT NULL,
    created_at timestamptz NOT NULL,
    -- NULL: the line is no state of a progress bar.
    update_id  bigint,
    stream     smallint    NOT NULL,
    level      smallint    NOT NULL,
    -- 1: continued, 2: no newline followed.
    flags      smallint    NOT NULL,
    producer   bytea       NOT NULL,
    fields     text,
    message    text        NOT NULL,
    -- The exact bytes where the text is not them.
    raw        bytea
) PARTITION BY RANGE (created_at);
