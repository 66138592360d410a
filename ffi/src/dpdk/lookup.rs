//! DPDK's own lookup tables, to be compared with the switch's: `rte_hash` and `rte_fib`. Only with the feature `lookup`.

use std::ffi::{CString, c_void};
use std::ptr::{NonNull, null_mut};

use super::eal::check;
use super::{BURST, Eal, last_error, sys};

/// `rte_hash` from MAC addresses to numbers.
#[derive(Debug)]
pub struct MacHash {
    raw: NonNull<sys::rte_hash>,
    _eal: Eal,
}

impl MacHash {
    /// An empty one for so many addresses. DPDK's words where it makes none.
    pub fn new(eal: &Eal, name: &str, entries: u32) -> Result<Self, String> {
        let name = CString::new(name).map_err(|error| error.to_string())?;
        let config = sys::rte_hash_parameters {
            name: name.as_ptr(),
            entries,
            reserved: 0,
            key_len: 6,
            hash_func: None,
            hash_func_init_val: 0,
            socket_id: -1,
            extra_flag: 0,
        };
        // SAFETY: EAL runs as long as `_eal`; name and parameters live until the call returns, which copies them.
        let raw = NonNull::new(unsafe { sys::rte_hash_create(&config) }).ok_or_else(last_error)?;
        Ok(Self { raw, _eal: eal.clone() })
    }

    /// Adds an address, or replaces its number.
    pub fn insert(&mut self, mac: &[u8; 6], value: usize) -> Result<(), String> {
        // SAFETY: the table is live and only used here; six bytes are read, and `value` is kept, not pointed to.
        check(unsafe {
            sys::rte_hash_add_key_data(self.raw.as_ptr(), mac.as_ptr().cast(), value as *mut c_void)
        })
    }

    /// The number of an address.
    #[inline]
    pub fn get(&self, mac: &[u8; 6]) -> Option<usize> {
        let mut value: *mut c_void = null_mut();
        // SAFETY: the table is live and nobody writes to it (`&self`); six bytes are read, one pointer is written.
        let found = unsafe { sys::rte_hash_lookup_data(self.raw.as_ptr(), mac.as_ptr().cast(), &mut value) };
        (found >= 0).then_some(value as usize)
    }

    /// The numbers of a burst of addresses; a bit for each that is there, from the lowest on.
    #[inline]
    pub fn get_burst(&self, macs: &[[u8; 6]; BURST], values: &mut [usize; BURST]) -> u64 {
        let mut keys: [*const c_void; BURST] = std::array::from_fn(|index| macs[index].as_ptr().cast());
        let mut hits = 0;
        // SAFETY: as in `get`; there are BURST keys, and room for as many values. DPDK's limit for one call is 64.
        unsafe {
            sys::rte_hash_lookup_bulk_data(
                self.raw.as_ptr(),
                keys.as_mut_ptr(),
                BURST as u32,
                &mut hits,
                values.as_mut_ptr().cast(),
            );
        }
        hits
    }
}

const _: () = assert!(BURST <= 64 && size_of::<usize>() == size_of::<*mut c_void>());

impl Drop for MacHash {
    fn drop(&mut self) {
        // SAFETY: the table is live, and this was its only owner.
        unsafe { sys::rte_hash_free(self.raw.as_ptr()) }
    }
}

/// `rte_fib`: IPv4 routes, one memory access for prefixes of up to 24 bits (DIR-24-8).
#[derive(Debug)]
pub struct Fib {
    raw: NonNull<sys::rte_fib>,
    _eal: Eal,
}

impl Fib {
    /// An empty one for so many routes, next hops being of 4 bytes: its table takes 64 MiB. What it does not know leads to 0.
    pub fn new(eal: &Eal, name: &str, routes: u32) -> Result<Self, String> {
        let name = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: plain numbers, of which all zero is a valid value.
        let mut config: sys::rte_fib_conf = unsafe { std::mem::zeroed() };
        config.type_ = sys::RTE_FIB_DIR24_8;
        config.max_routes = routes as i32;
        config.__bindgen_anon_1.dir24_8.nh_sz = sys::RTE_FIB_DIR24_8_4B;
        config.__bindgen_anon_1.dir24_8.num_tbl8 = routes;
        // SAFETY: EAL runs as long as `_eal`; name and parameters live until the call returns, which copies them.
        let raw = NonNull::new(unsafe { sys::rte_fib_create(name.as_ptr(), -1, &mut config) });
        Ok(Self { raw: raw.ok_or_else(last_error)?, _eal: eal.clone() })
    }

    /// Adds the route to `address/len`, the address as a number.
    pub fn insert(&mut self, address: u32, len: u8, next_hop: u32) -> Result<(), String> {
        // SAFETY: the table is live and only used here.
        check(unsafe { sys::rte_fib_add(self.raw.as_ptr(), address, len, next_hop.into()) })
    }

    /// The next hops of a burst of addresses.
    #[inline]
    pub fn get_burst(&self, addresses: &mut [u32; BURST], next_hops: &mut [u64; BURST]) {
        // SAFETY: the table is live and nobody writes to it (`&self`); BURST addresses are read, as many next hops written.
        unsafe {
            let (addresses, next_hops) = (addresses.as_mut_ptr(), next_hops.as_mut_ptr());
            sys::rte_fib_lookup_bulk(self.raw.as_ptr(), addresses, next_hops, BURST as i32);
        }
    }
}

impl Drop for Fib {
    fn drop(&mut self) {
        // SAFETY: the table is live, and this was its only owner.
        unsafe { sys::rte_fib_free(self.raw.as_ptr()) }
    }
}
