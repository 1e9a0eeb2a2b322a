// SPDX-License-Identifier: GPL-3.0-or-later
//! Where panics end.

use std::any::Any;

/// Run the body of an `extern "C"` function; a panic in it becomes the first argument, a value or a closure that is
/// given the panic's text.
macro_rules! boundary {
    ($on_panic:expr, $body:block) => {
        // AssertUnwindSafe: the caller gives up whatever the body had in hand when it panicked.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| $body)) {
            Ok(value) => value,
            Err(payload) => ($on_panic)($crate::ffi::boundary::text_of(payload)),
        }
    };
}
pub(super) use boundary;

/// The message of a panic. Never panics itself.
pub(super) fn text_of(payload: Box<dyn Any + Send>) -> String {
    let text = match payload.downcast::<String>() {
        Ok(text) => return *text,
        Err(payload) => match payload.downcast::<&'static str>() {
            Ok(text) => return (*text).to_owned(),
            // Dropping a value of unknown type could panic again.
            Err(payload) => {
                std::mem::forget(payload);
                "a panic without a message"
            }
        },
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    struct PanicsWhenDropped;
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    extern "C" fn caught(which: u32, text: &mut String) -> i32 {
        boundary!(
            |said: String| {
                *text = said;
                -1
            },
            {
                match which {
                    0 => 7,
                    1 => panic!("plain"),
                    2 => panic!("formatted {which}"),
                    _ => std::panic::panic_any(PanicsWhenDropped),
                }
            }
        )
    }

    #[test]
    fn every_kind_of_panic_ends_at_the_boundary() {
        for (which, result, text) in
            [(0, 7, ""), (1, -1, "plain"), (2, -1, "formatted 2"), (3, -1, "a panic without a message")]
        {
            let mut said = String::new();
            assert_eq!(caught(which, &mut said), result);
            assert_eq!(said, text);
        }
    }
}
