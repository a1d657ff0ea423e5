//! The one type for arithmetic on lengths and offsets that a file states.

/// A number of bytes or of elements, or an offset. Every operation says whether the result fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(u64);

impl Size {
    pub(super) const ZERO: Size = Size(0);

    pub(super) const fn of(n: u64) -> Size {
        Size(n)
    }

    pub(super) fn of_len(n: usize) -> Size {
        Size(n as u64) // usize has at most 64 bits on every target of Rust
    }

    pub(super) const fn get(self) -> u64 {
        self.0
    }

    pub(super) fn to_usize(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }

    pub(super) fn add(self, other: Size) -> Option<Size> {
        self.0.checked_add(other.0).map(Size)
    }

    pub(super) fn sub(self, other: Size) -> Option<Size> {
        self.0.checked_sub(other.0).map(Size)
    }

    pub(super) fn mul(self, other: Size) -> Option<Size> {
        self.0.checked_mul(other.0).map(Size)
    }

    /// `None` if `other` is zero.
    pub(super) fn div(self, other: Size) -> Option<Size> {
        self.0.checked_div(other.0).map(Size)
    }

    /// The least multiple of `alignment` that is not below; `None` if it does not fit, or the
    /// alignment is zero.
    pub(super) fn align_up(self, alignment: Size) -> Option<Size> {
        self.0.checked_next_multiple_of(alignment.0).map(Size)
    }

    pub(super) fn is_multiple_of(self, alignment: Size) -> bool {
        self.0.checked_rem(alignment.0) == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Size = Size(u64::MAX);

    #[test]
    fn what_does_not_fit_is_none() {
        assert_eq!(MAX.add(Size(1)), None);
        assert_eq!(Size(1).sub(Size(2)), None);
        assert_eq!(Size(1 << 32).mul(Size(1 << 32)), None);
        assert_eq!(MAX.align_up(Size(32)), None);
        assert_eq!(Size(u64::MAX - 3).align_up(Size(4)), Some(Size(u64::MAX - 3)));
    }

    #[test]
    fn zero_divides_nothing() {
        assert_eq!(Size(1).div(Size::ZERO), None);
        assert_eq!(Size(1).align_up(Size::ZERO), None);
        assert!(!Size(0).is_multiple_of(Size::ZERO));
    }

    #[test]
    fn rounding_up_keeps_multiples() {
        assert_eq!(Size(64).align_up(Size(32)), Some(Size(64)));
        assert_eq!(Size(65).align_up(Size(32)), Some(Size(96)));
        assert_eq!(Size(0).align_up(Size(32)), Some(Size(0)));
    }
}
