-- How far each sink group is, and who may move it: changed in the transaction that writes the rows.
-- next_offset is -1 until the first commit; topic_id stays null where the client cannot learn it.
create table headwater.consumer_offsets (
    consumer_group text   not null,
    topic          text   not null,
    partition      int4   not null,
    next_offset    int8   not null,
    owner_epoch    int8   not null,
    topic_id       text,
    primary key (consumer_group, topic, partition)
);
