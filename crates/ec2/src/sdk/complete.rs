// SPDX-License-Identifier: GPL-3.0-or-later
//! Refuses replies that end before their root element does.
//!
//! The SDK's XML reader takes the end of the text for the end of every open element, so that a listing cut in the
//! middle would pass for a shorter listing. What is missing from a listing must be "unknown", never "not there".

use aws_sdk_ec2::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ec2::error::BoxError;

#[derive(Debug)]
pub(super) struct CompleteReply;

impl Intercept for CompleteReply {
    fn name(&self) -> &'static str {
        "CompleteReply"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        match context.response().body().bytes() {
            Some(body) if is_complete(body) => Ok(()),
            Some(_) => Err("the reply is cut or is not XML".into()),
            None => Err("the reply has no body".into()),
        }
    }
}

/// Whether the text is one XML element from its start to its end, leaving a declaration and comments aside.
fn is_complete(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else { return false };
    let mut rest = text.trim();
    while rest.starts_with("<?") || rest.starts_with("<!") {
        match rest.split_once('>') {
            Some((_, after)) => rest = after.trim_start(),
            None => return false,
        }
    }
    let Some(inside) = rest.strip_prefix('<') else { return false };
    let end = inside.find(|c: char| c == '>' || c == '/' || c.is_whitespace()).unwrap_or(inside.len());
    let name = &inside[..end];
    if name.is_empty() {
        return false;
    }
    let closed = rest
        .strip_suffix('>')
        .and_then(|rest| rest.trim_end().strip_suffix(name))
        .is_some_and(|rest| rest.ends_with("</"));
    let empty = inside.strip_suffix("/>").is_some_and(|rest| !rest.contains('>'));
    closed || empty
}

#[cfg(test)]
mod tests {
    use super::is_complete;

    #[test]
    fn every_cut_of_a_reply_is_noticed() {
        let whole = "<?xml version=\"1.0\"?>\n<!-- x --><AResponse xmlns=\"u\"><set><item><A>1</A></item></set></AResponse>";
        assert!(is_complete(whole.as_bytes()));
        for end in 0..whole.len() {
            assert!(!is_complete(&whole.as_bytes()[..end]), "{}", &whole[..end]);
        }
    }

    #[test]
    fn forms_that_servers_send() {
        for whole in ["<A></A>", "<A/>", "<A b=\"c\" />", "<A>x</A>\n", "<A>x</A >", " <A><A></A></A>"] {
            assert!(is_complete(whole.as_bytes()), "{whole}");
        }
        for other in
            ["", " ", "text", "{}", "<>", "</A>", "<A>", "<A><B/>", "<A>x</B>", "<?xml?>", "\u{fffd}"]
        {
            assert!(!is_complete(other.as_bytes()), "{other}");
        }
        assert!(!is_complete(b"<A>\xff</A>"));
    }
}
