//! Python text as bytes. A `str` may hold lone surrogates, which UTF-8 cannot: it must be shipped all the same.

use std::borrow::Cow;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

/// The text in UTF-8; what is not text as the bytes that it stands for, which readers see as U+FFFD.
pub(crate) fn bytes<'a>(text: &'a Bound<'_, PyString>) -> Cow<'a, [u8]> {
    match text.to_str() {
        Ok(utf8) => Cow::Borrowed(utf8.as_bytes()),
        Err(_) => Cow::Owned(encode(text)),
    }
}

/// As [`bytes`], with U+FFFD for what is not text.
pub(crate) fn lossy<'a>(text: &'a Bound<'_, PyString>) -> Cow<'a, str> {
    match text.to_str() {
        Ok(utf8) => Cow::Borrowed(utf8),
        Err(_) => Cow::Owned(String::from_utf8_lossy(&encode(text)).into_owned()),
    }
}

fn encode(text: &Bound<'_, PyString>) -> Vec<u8> {
    // "surrogateescape" gives back the bytes that Python could not decode; "surrogatepass" takes any surrogate.
    for errors in ["surrogateescape", "surrogatepass"] {
        let encoded = text.call_method1("encode", ("utf-8", errors));
        if let Some(bytes) = encoded.ok().and_then(|encoded| encoded.cast_into::<PyBytes>().ok()) {
            return bytes.as_bytes().to_vec();
        }
    }
    "\u{fffd}\n".as_bytes().to_vec()
}
