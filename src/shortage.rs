//! Whose fault a failed system call is: a shortage of this machine says nothing about an upstream.

use std::io;

use rustix::io::Errno;

/// Whether `error`, from making or using a connection, is a shortage of our own: of descriptors,
/// memory or local ports. It must never count against the other side. To be asked about errors that
/// end an attempt; on a connected socket `EAGAIN` only means "not now", and is to be dealt with
/// before.
pub fn is_own(error: &io::Error) -> bool {
    const OWN: [Errno; 7] = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::NOBUFS,
        Errno::ADDRNOTAVAIL,
        Errno::ADDRINUSE,
        Errno::AGAIN,
    ];
    Errno::from_io_error(error).is_some_and(|errno| OWN.contains(&errno))
}

/// Whether it is a shortage of descriptors, which closing a connection helps against.
pub fn is_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shortages_are_our_own() {
        for (errno, own) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOMEM, true),
            (Errno::NOBUFS, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::ADDRINUSE, true),
            (Errno::AGAIN, true),
            (Errno::CONNREFUSED, false),
            (Errno::CONNRESET, false),
            (Errno::TIMEDOUT, false),
            (Errno::HOSTUNREACH, false),
            (Errno::NETUNREACH, false),
            (Errno::AFNOSUPPORT, false),
        ] {
            assert_eq!(is_own(&errno.into()), own, "{errno:?}");
            let of_descriptors = matches!(errno, Errno::MFILE | Errno::NFILE);
            assert_eq!(is_of_descriptors(&errno.into()), of_descriptors, "{errno:?}");
        }
        assert!(!is_own(&io::Error::other("not from the system")));
    }
}
