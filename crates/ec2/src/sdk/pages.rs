// SPDX-License-Identifier: GPL-3.0-or-later
//! Listings of several pages: all of them, or an error. What a page that failed would have shown is not known.

use crate::errors::TransportFailure;
use ec2fleet_core::ec2_api::CloudError;

/// Pages of one listing: a bound against a server that never ends, far above what an account can hold.
const MAX_PAGES: usize = 1_000;

/// The place in a listing.
#[derive(Default)]
pub(super) struct Pages {
    token: Option<String>,
    seen: usize,
}

impl Pages {
    pub(super) fn token(&self) -> Option<String> {
        self.token.clone()
    }

    /// Whether there is another page. A server that repeats itself would otherwise never let us go.
    pub(super) fn advance(&mut self, next: Option<String>) -> Result<bool, CloudError> {
        let Some(next) = next.filter(|token| !token.is_empty()) else { return Ok(false) };
        self.seen += 1;
        if self.seen >= MAX_PAGES || self.token.as_ref() == Some(&next) {
            return Err(TransportFailure::MalformedReply.error("the listing does not end"));
        }
        self.token = Some(next);
        Ok(true)
    }
}

/// All items of all pages: `all_pages!(client.describe_subnets(), subnets)`; with a third argument each page goes
/// through that function, so that no more than one page is held as the SDK has it.
///
/// A macro because the SDK's request types share their methods by name only.
macro_rules! all_pages {
    ($call:expr, $items:ident) => {
        all_pages!($call, $items, Ok)
    };
    ($call:expr, $items:ident, $convert:expr) => {{
        let call = $call;
        let mut pages = $crate::sdk::pages::Pages::default();
        let mut items = Vec::new();
        loop {
            let output = call
                .clone()
                .set_next_token(pages.token())
                .send()
                .await
                .map_err($crate::sdk::failure::convert)?;
            let page: Result<Vec<_>, CloudError> = $convert(output.$items.unwrap_or_default());
            items.append(&mut page?);
            if !pages.advance(output.next_token)? {
                break items;
            }
        }
    }};
}

pub(super) use all_pages;
