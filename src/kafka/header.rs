//! The headers of a message that was read. The client's own reading of them ends the thread where a name
//! is no UTF-8, as any producer may write one; so this file speaks to librdkafka directly.
//!
//! librdkafka gives names as C strings: of a name with a NUL byte, what stands before it.

use crate::record::headers::Headers;
use rdkafka::{bindings as native, message::BorrowedMessage, types::RDKafkaRespErr};
use std::{
    ffi::{CStr, CString, c_void},
    ptr, slice,
};

/// Headers in their order.
///
/// # Safety
/// `message` is live.
pub(super) unsafe fn all(message: *const native::rd_kafka_message_t) -> Headers {
    let mut found = Vec::new();
    // SAFETY: headers, names and values belong to the message, which is live; they are copied.
    unsafe {
        let mut headers = ptr::null_mut();
        if native::rd_kafka_message_headers(message, &mut headers) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return found;
        }
        loop {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            let code = native::rd_kafka_header_get_all(headers, found.len(), &mut name, &mut value, &mut size);
            if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return found;
            }
            found.push((CStr::from_ptr(name).to_bytes().to_vec(), bytes(value, size).map(<[u8]>::to_vec)));
        }
    }
}

/// The value of the first header of that name.
pub(super) fn first<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    let name = CString::new(name).ok()?;
    // SAFETY: the message is borrowed for as long as the value.
    unsafe {
        let mut headers = ptr::null_mut();
        if native::rd_kafka_message_headers(message.ptr(), &mut headers) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let (mut value, mut size) = (ptr::null(), 0);
        let code = native::rd_kafka_header_get(headers, 0, name.as_ptr(), &mut value, &mut size);
        (code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| bytes(value, size)).flatten()
    }
}

/// # Safety
/// `start` is null or points to `size` bytes that live as long as the result.
pub(super) unsafe fn bytes<'a>(start: *const c_void, size: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller promises.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast(), size) })
}
