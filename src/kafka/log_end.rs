//! Where the logs of partitions end, records of open transactions included. A reader of committed records is told
//! another end by every other call: the last stable offset, which stands as long as a transaction is open.

use super::request;
use rdkafka::{
    TopicPartitionList, bindings as native,
    client::{Client, ClientContext},
    types::RDKafkaRespErr,
};
use std::{ffi::CStr, time::Duration};

const BAD: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG;

/// Topic, partition and end, as the brokers answer now; partitions of which they do not tell are left out. Blocks at
/// most `timeout` and a little.
pub(super) fn log_ends<'a, C: ClientContext>(
    client: &Client<C>,
    partitions: impl Iterator<Item = (&'a str, i32)>,
    timeout: Duration,
) -> Result<Vec<(String, i32, i64)>, RDKafkaRespErr> {
    let mut list = TopicPartitionList::new();
    for (topic, number) in partitions {
        list.add_partition(topic, number);
    }
    let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
    // SAFETY: the list is ours and is copied by the request; its elements are live while they are changed.
    let answer = request::ask(client, operation, false, timeout, |request| unsafe {
        for index in 0..(*list.ptr()).cnt {
            let element = (*list.ptr()).elems.offset(index as isize);
            (*element).offset = native::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64;
        }
        let isolation = native::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED;
        let refused = native::rd_kafka_AdminOptions_set_isolation_level(request.options, isolation);
        if !refused.is_null() {
            native::rd_kafka_error_destroy(refused);
        }
        native::rd_kafka_ListOffsets(request.client, list.ptr(), request.options, request.queue);
    })?;
    // SAFETY: the event is live and answers that request, and all that is read belongs to it.
    unsafe {
        let result = native::rd_kafka_event_ListOffsets_result(answer.event());
        if result.is_null() {
            return Err(BAD);
        }
        let mut count = 0;
        let infos = native::rd_kafka_ListOffsets_result_infos(result, &mut count);
        let found = (0..count).filter_map(|index| {
            let found = &*native::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
            let topic = CStr::from_ptr(found.topic).to_string_lossy().into_owned();
            let is_told = found.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && found.offset >= 0;
            is_told.then_some((topic, found.partition, found.offset))
        });
        Ok(found.collect())
    }
}
