//! Pages of long lists, for clients of the local API.

use crate::usage;

/// Maximum number of entries of a page. 1,000: a page of that many nodes, with five links each, has about 1 MiB.
const MAX_LIMIT: usize = 1000;

/// A part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// Maximum number of entries; `None` for all after the first `offset`.
    limit: Option<usize>,
    /// Number of entries before the page.
    offset: usize,
}

impl Page {
    /// Returns the page that a client asks for. Returns `None` if it asks for the whole list.
    ///
    /// # Errors
    /// If the limit is 0, or more than [`MAX_LIMIT`].
    pub(super) fn read(
        limit: Option<usize>,
        offset: Option<usize>,
    ) -> anyhow::Result<Option<Self>> {
        if limit.is_some_and(|limit| !(1..=MAX_LIMIT).contains(&limit)) {
            return Err(usage(format!("the limit of a page is 1 to {MAX_LIMIT}")));
        }
        let is_whole = limit.is_none() && offset.is_none();
        Ok((!is_whole).then_some(Self { limit, offset: offset.unwrap_or(0) }))
    }

    /// Returns the entries on the page.
    pub(super) fn of<T>(self, entries: Vec<T>) -> Vec<T> {
        let limit = self.limit.unwrap_or(usize::MAX);
        entries.into_iter().skip(self.offset).take(limit).collect()
    }

    /// Sorts the entries, and returns those on the page. If the order changed between two requests, an entry
    /// could be on two pages, or on none.
    pub(super) fn of_sorted<T, K: Ord>(self, mut entries: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
        entries.sort_by_key(key);
        self.of(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_their_part_of_the_list() {
        let list = || vec![3, 1, 2, 5, 4];
        let page = |limit, offset| Page::read(limit, offset).unwrap().unwrap();
        assert_eq!(page(Some(2), None).of(list()), [3, 1]);
        assert_eq!(page(Some(2), Some(4)).of(list()), [4]);
        assert_eq!(page(None, Some(3)).of_sorted(list(), |n| *n), [4, 5]);
        assert!(page(Some(1000), Some(usize::MAX)).of(list()).is_empty());
        assert_eq!(Page::read(None, None).unwrap(), None);
        for limit in [0, MAX_LIMIT + 1] {
            assert!(Page::read(Some(limit), None).is_err());
        }
    }
}
