//! One question to librdkafka's admin interface, for which the Rust client has no call.

use rdkafka::{
    bindings as native,
    client::{Client, ClientContext},
    types::RDKafkaRespErr,
};
use std::time::Duration;

/// The event that answers a question; what is read of it must not outlive it.
pub(super) struct Answer(*mut native::rd_kafka_event_t);

impl Answer {
    pub fn event(&self) -> *mut native::rd_kafka_event_t {
        self.0
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the event came from a poll and is destroyed once.
        unsafe { native::rd_kafka_event_destroy(self.0) };
    }
}

/// What [`ask`] hands to the call that sends the question.
pub(super) struct Request {
    pub client: *mut native::rd_kafka_t,
    pub options: *mut native::rd_kafka_AdminOptions_t,
    pub queue: *mut native::rd_kafka_queue_t,
}

/// Sends a question with `send` and waits for its answer, for at most `timeout` and a little. With
/// `rights` the answer tells what we may do, where the question knows of that. Blocks.
pub(super) fn ask<C: ClientContext>(
    client: &Client<C>,
    operation: native::rd_kafka_admin_op_t,
    rights: bool,
    timeout: Duration,
    send: impl FnOnce(&Request),
) -> Result<Answer, RDKafkaRespErr> {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: every object made here is destroyed here, in the reverse order, but for the event, which
    // the answer owns. The client outlives the call.
    let event = unsafe {
        let rk = client.native_ptr();
        let queue = native::rd_kafka_queue_new(rk);
        let options = native::rd_kafka_AdminOptions_new(rk, operation);
        let mut text = [0; 256];
        native::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, text.as_mut_ptr(), text.len());
        if rights {
            let refused = native::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
            if !refused.is_null() {
                native::rd_kafka_error_destroy(refused);
            }
        }
        send(&Request { client: rk, options, queue });
        // The request has its own deadline; a little more, so that its error arrives rather than ours.
        let event = native::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1_000));
        native::rd_kafka_AdminOptions_destroy(options);
        native::rd_kafka_queue_destroy(queue);
        event
    };
    if event.is_null() {
        return Err(RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT);
    }
    let answer = Answer(event);
    // SAFETY: the event is live.
    match unsafe { native::rd_kafka_event_error(answer.event()) } {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(answer),
        code => Err(code),
    }
}

/// The code of an error that librdkafka gives beside a result; `Ok` where there is none.
///
/// # Safety
/// `error` is null or live.
pub(super) unsafe fn check(error: *const native::rd_kafka_error_t) -> Result<(), RDKafkaRespErr> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: by the caller's promise.
    match unsafe { native::rd_kafka_error_code(error) } {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(code),
    }
}
