// SPDX-License-Identifier: GPL-3.0-or-later
//! Pagination: MaxResults and NextToken.

use crate::api::error::ApiError;
use crate::api::query::Node;

/// Where a page starts and how much it may hold.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Elements with a position up to this were on earlier pages.
    pub after: u64,
    /// How many elements this page may hold; none means all.
    pub limit: Option<usize>,
    check: u32,
}

impl Page {
    /// Reads MaxResults and NextToken.
    ///
    /// # Errors
    /// `InvalidParameterValue` for MaxResults outside `least..=most`; `InvalidNextToken` for a token
    /// that was not given by this action with the same filters.
    pub fn read(action: &str, request: &Node, least: i64, most: i64) -> Result<Self, ApiError> {
        let limit = match request.int("MaxResults") {
            None => None,
            Some(count) if (least..=most).contains(&count) => usize::try_from(count).ok(),
            Some(count) => {
                return Err(ApiError::invalid_value(
                    "MaxResults",
                    &count.to_string(),
                    &format!("Expecting a value between {least} and {most}."),
                ));
            }
        };
        let rest = request.without(&["NextToken", "MaxResults", "DryRun"]);
        let check = crc32fast::hash(format!("{action} {rest:?}").as_bytes());
        let after = match request.text("NextToken") {
            None | Some("") => 0,
            Some(token) => parse_token(token, check).ok_or_else(|| {
                ApiError::new("InvalidNextToken", format!("The token '{token}' is invalid"))
            })?,
        };
        Ok(Self { after, limit, check })
    }

    /// The token that continues after the element at `position`.
    pub fn token(&self, position: u64) -> String {
        format!("{:08x}{:016x}", self.check, position)
    }

    /// Cuts a list that is held whole; positions are 1, 2, 3 …
    pub fn cut<T>(&self, all: Vec<T>) -> (Vec<T>, Option<String>) {
        let skip = usize::try_from(self.after).unwrap_or(usize::MAX).min(all.len());
        let limit = self.limit.unwrap_or(usize::MAX);
        let more = all.len() - skip > limit;
        let page: Vec<T> = all.into_iter().skip(skip).take(limit).collect();
        let token = more.then(|| self.token((skip + page.len()) as u64));
        (page, token)
    }
}

fn parse_token(token: &str, check: u32) -> Option<u64> {
    if token.len() != 24 || !token.is_ascii() {
        return None;
    }
    let (left, right) = token.split_at(8);
    (u32::from_str_radix(left, 16).ok()? == check).then(|| u64::from_str_radix(right, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_add_up_to_the_whole(count in 0usize..60, size in 5i64..20) {
            let all: Vec<usize> = (0..count).collect();
            let mut seen = Vec::new();
            let mut token: Option<String> = None;
            loop {
                let mut pairs = vec![("MaxResults".to_owned(), size.to_string())];
                pairs.extend(token.iter().map(|token| ("NextToken".to_owned(), token.clone())));
                let request = Node::parse(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())));
                let page = Page::read("DescribeSubnets", &request, 5, 1000).unwrap();
                let (items, next) = page.cut(all.clone());
                prop_assert!(items.len() as i64 <= size);
                seen.extend(items);
                token = next;
                if token.is_none() { break; }
            }
            prop_assert_eq!(seen, all);
        }
    }

    #[test]
    fn a_token_is_good_for_the_same_request_only() {
        let request = Node::parse([("MaxResults", "5")]);
        let token = Page::read("DescribeSubnets", &request, 5, 1000).unwrap().token(5);
        let other = Node::parse([("NextToken", token.as_str()), ("SubnetId.1", "subnet-1")]);
        let error = Page::read("DescribeSubnets", &other, 5, 1000).unwrap_err();
        assert_eq!(error.code, "InvalidNextToken");
        assert!(Page::read("DescribeSubnets", &Node::parse([("MaxResults", "4")]), 5, 1000).is_err());
    }
}
