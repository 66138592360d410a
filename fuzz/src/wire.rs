//! What every wire format is asked.

use std::fmt::Debug;

use weft_switch::wire::WireError;

/// Calls getters of a view: none may panic.
#[macro_export]
macro_rules! get {
    ($view:expr, $($getter:ident),+ $(,)?) => {{
        let view = &$view;
        $(let _ = std::hint::black_box(view.$getter());)+
    }};
}

/// Sets fields of a view, each to a value that it can hold, and finds it there.
#[macro_export]
macro_rules! set {
    ($view:expr, $($setter:ident($value:expr) = $getter:ident),+ $(,)?) => {{
        let view = &mut $view;
        $({
            let value = $value;
            view.$setter(value);
            assert_eq!(view.$getter(), value, stringify!($getter));
        })+
    }};
}

/// Writes what was read over rubbish, and reads the same again; a buffer that is too short by one is refused. Returns
/// the `len` bytes that were written.
pub fn both_ways<T: PartialEq + Debug>(
    owned: &T,
    len: usize,
    emit: impl Fn(&T, &mut [u8]) -> Result<usize, WireError>,
    parse: impl Fn(&[u8]) -> Result<T, WireError>,
) -> Vec<u8> {
    let mut bytes = vec![0xa5; len];
    assert_eq!(emit(owned, &mut bytes), Ok(len));
    assert_eq!(parse(&bytes).as_ref(), Ok(owned));
    if let Some((_, short)) = vec![0; len].split_last_mut() {
        let refused = emit(owned, short);
        assert!(matches!(refused, Err(WireError::NoRoom { .. })), "{refused:?}");
    }
    bytes
}

/// An error of a wire format says something of which bytes: its text is not empty, and what it says is there is there.
pub fn assert_sensible(error: WireError, have: usize) {
    assert!(!error.to_string().is_empty());
    if let WireError::Truncated { need, have: said, .. } = error {
        assert!(said <= have && need > said, "{error}");
    }
}

/// Some bytes of the input, as a number to set fields to: the same at every run.
pub fn number(data: &[u8]) -> u64 {
    data.iter()
        .take(24)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
