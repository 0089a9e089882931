-- What no group could process, with all that is known of it: kept by the group `dead-letters`, sent back, edited and
-- discarded by `headwater dlq`. A row is a record in one processor; its place is where the record first stood.
create table headwater.dead_letters (
    id               uuid        not null default gen_random_uuid() primary key,
    consumer_group   text        not null,
    processor        text        not null,
    event_id         text        not null,
    event_type       text,
    kind             text        not null,
    message          text        not null,
    detail           text        not null,
    fingerprint      text        not null,
    status           text        not null default 'open'
        check (status in ('open', 'redriven', 'resolved', 'discarded', 'edited', 'parked')),
    attempts         int4        not null,
    redrive_count    int4        not null,
    origin_topic     text        not null,
    origin_partition int4        not null,
    origin_offset    int8        not null,
    origin_timestamp timestamptz not null,
    key              bytea,
    value            bytea,
    -- [{"name", "text" or "base64", or neither for null}], in the record's order, but for those of its delivery
    headers          jsonb       not null,
    correlation_id   text        not null,
    first_failed_at  timestamptz not null,
    dead_lettered_at timestamptz not null,
    edited_from      uuid,
    note             text,
    unique (consumer_group, processor, origin_topic, origin_partition, origin_offset, origin_timestamp)
);

create index dead_letters_by_make on headwater.dead_letters (consumer_group, status, fingerprint, dead_lettered_at);
