CREATE DATABASE IF NOT EXISTS logs ON CLUSTER prod;

CREATE TABLE IF NOT EXISTS logs.schema_migrations_local ON CLUSTER prod (
    version    UInt32,
    applied_at DateTime DEFAULT now()
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
ORDER BY version;

CREATE TABLE IF NOT EXISTS logs.schema_migrations ON CLUSTER prod AS logs.schema_migrations_local
ENGINE = Distributed('prod', 'logs', 'schema_migrations_local', rand());

CREATE TABLE IF NOT EXISTS logs.task_logs_local ON CLUSTER prod (
    tenant     LowCardinality(String) CODEC(ZSTD(1)),
    task_id    LowCardinality(String) CODEC(ZSTD(1)),
    offset     UInt64 CODEC(DoubleDelta, ZSTD(1)),
    epoch      UInt64 CODEC(DoubleDelta, ZSTD(1)),
    producer   FixedString(16) CODEC(ZSTD(1)),
    seq        UInt64 CODEC(DoubleDelta, ZSTD(1)),
    time_ns    Int64 CODEC(Delta, ZSTD(1)),
    created_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    stream     Enum8('stdout' = 1, 'stderr' = 2, 'log' = 3, 'system' = 4) CODEC(ZSTD(1)),
    level      UInt8 CODEC(ZSTD(1)),
    flags      UInt8 CODEC(ZSTD(1)),
    update_id  UInt64 CODEC(ZSTD(1)),
    fields     String CODEC(ZSTD(1)),
    message    String CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
PARTITION BY toYYYYMMDD(created_at)
ORDER BY (tenant, task_id, offset, epoch)
TTL toDateTime(created_at) + toIntervalDay(7)
SETTINGS ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS logs.task_logs ON CLUSTER prod AS logs.task_logs_local
ENGINE = Distributed('prod', 'logs', 'task_logs_local', cityHash64(tenant, task_id));

CREATE TABLE IF NOT EXISTS logs.task_states_local ON CLUSTER prod (
    tenant        LowCardinality(String),
    task_id       String,
    epoch         UInt64,
    producer      FixedString(16),
    recorded      SimpleAggregateFunction(max, UInt8),
    base          SimpleAggregateFunction(max, UInt64),
    floor         SimpleAggregateFunction(max, UInt64),
    end           SimpleAggregateFunction(max, UInt64),
    created_at_ms SimpleAggregateFunction(max, Int64),
    seq           SimpleAggregateFunction(max, UInt64)
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
ORDER BY (tenant, task_id, epoch, producer)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS logs.task_states ON CLUSTER prod AS logs.task_states_local
ENGINE = Distributed('prod', 'logs', 'task_states_local', cityHash64(tenant, task_id));

CREATE TABLE IF NOT EXISTS logs.task_records_local ON CLUSTER prod (
    tenant        LowCardinality(String),
    task_id       String,
    version       UInt64,
    workflow_id   String,
    name          String,
    labels        String,
    attempt       UInt32,
    attempt_base  UInt64,
    dropped       UInt64,
    status        LowCardinality(String),
    exit_code     Nullable(Int32),
    created_at_ms Int64,
    started_at_ms Int64,
    ended_at_ms   Nullable(Int64),
    epochs        String,
    producers     String
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', version)
ORDER BY (tenant, task_id)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS logs.task_records ON CLUSTER prod AS logs.task_records_local
ENGINE = Distributed('prod', 'logs', 'task_records_local', cityHash64(tenant, task_id));

ALTER TABLE logs.task_logs_local ON CLUSTER prod MODIFY TTL toDateTime(created_at) + toIntervalDay(7);

ALTER TABLE logs.task_logs_local ON CLUSTER prod MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;

ALTER TABLE logs.task_states_local ON CLUSTER prod MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;

ALTER TABLE logs.task_records_local ON CLUSTER prod MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;

ALTER TABLE logs.task_logs_local ON CLUSTER prod ADD INDEX IF NOT EXISTS message_ngrams message TYPE ngrambf_v1(4, 16384, 2, 0) GRANULARITY 1;
