"""What the scripts say: few paths, tokens and numbers, so that they meet; some at a limit, and some that are bad."""

from typing import Final

from xenblk.xenstore.wire import XsMsgType

PATHS: Final = (
    "/a", "/a/b", "/a/b/c", "/a/b/d", "/a/e", "/f", "/f/g", "/", "/tool", "a", "a/b", "x", "/local/domain/1",
    "/local/domain/1/a", "/local/domain/1/a/b", "/local/domain/2", "/local/domain/2/x", "/local/domain/0/a", "/local",
)  # fmt: skip
AT_HOME: Final = ("a", "a/b", "a/b/c", "x", "x/y")
LONG_PATHS: Final = (
    *(f"/f/{letter * 1900}" for letter in "pqr"),  # any three make a list that is too long for one reply
    "/a/" + "p" * 2045,  # the longest that the real one takes from domain 0
    "/a" + "/n" * 999,  # as many nodes as a guest may own, nearly
    "h" * 2048, "h" * 2032,
)  # fmt: skip
BAD_PATHS: Final = ("", "//", "/a/", "/a//b", "/a b", "/ä", "@a", "@releaseDomain", "@introduceDomain/1", "a/", "/a.b")
TOO_LONG_FOR_GUESTS: Final = ("/a/" + "p" * 2046, "h" * 2049)
WATCHED: Final = (*PATHS, "@introduceDomain", "@releaseDomain", "@other", "@odd name", "", "/a/", "/a b")
TOKENS: Final = ("", "t", "u", "t" * 4000, "t", "u", "t", "u")
VALUES: Final = (
    b"", b"1", b"22", b"\0", b"v\0w\0", b"x" * 100, b"y" * 1500, b"z" * 1990, b"z" * 3000, b"w" * 2007, b"w" * 2008,
    b"w" * 2015, b"w" * 2016,
)  # fmt: skip
PERMS: Final = (
    "n0", "r0", "b0", "w0", "n1", "b1", "r1", "n2", "w2", "n3", "n0 r1", "n0 b1 r2", "n0 n1 b2", "n1 r2", "r1 n2",
    "b2 w1", "n0 r1 r1", "n7", "n0 b7", "x0", "n", "n0 r", "", "n0 r1 r2 r3 r4 r5 r6", "n1 r2 r3 b2 b3",
)  # fmt: skip
OWN_PERMS: Final = ("n", "r", "b", "w", "n r0", "b n1 n2", "r b1 b2 b3 b7", "n r1 r2 r3 r7 r0", "n b3", "n r2")
"""Without the number of the guest that owns the node."""

NUMBERS: Final = ("0", "1", "2", "3", "7", "32752", "abc", "", " 2", "-1", "+1", "1x", "9" * 20)
COMMANDS: Final = (
    "check", "print hello", "print", "nope", "log x", "help", "quota", "quota-soft", "quota 7", "quota 1", "quota 0",
    "quota x y", "quota set nodes 12", "quota set nodes 1000", "quota set watches 2", "quota set transactions 2",
    "quota set transaction-nodes 6", "quota set transaction-nodes 1024", "quota set node-size 130",
    "quota set node-size 2048", "quota set path-max 2048", "quota set permissions 2", "quota set permissions 5",
    "quota set nodes 0", "quota set nope 7", "quota set nodes", "quota-soft set memory 7", "quota-soft set nodes 7",
)  # fmt: skip
UNKNOWN: Final = (15, 16, 20, 23, 26, 99, 1 << 31)

WEIGHTS: Final = {
    XsMsgType.READ: 8, XsMsgType.WRITE: 16, XsMsgType.MKDIR: 8, XsMsgType.RM: 9, XsMsgType.DIRECTORY: 5,
    XsMsgType.GET_PERMS: 4, XsMsgType.SET_PERMS: 12, XsMsgType.WATCH: 7, XsMsgType.UNWATCH: 3,
    XsMsgType.TRANSACTION_START: 6, XsMsgType.TRANSACTION_END: 6, XsMsgType.RESET_WATCHES: 0.5,
    XsMsgType.DIRECTORY_PART: 3, XsMsgType.GET_DOMAIN_PATH: 1, XsMsgType.IS_DOMAIN_INTRODUCED: 1,
    XsMsgType.CONTROL: 1.5, XsMsgType.INTRODUCE: 1.5, XsMsgType.RELEASE: 0.7, XsMsgType.RESUME: 0.7,
    XsMsgType.SET_TARGET: 0.5,
}  # fmt: skip

ONE_PATH: Final = (XsMsgType.READ, XsMsgType.DIRECTORY, XsMsgType.GET_PERMS, XsMsgType.MKDIR, XsMsgType.RM)
"""Requests whose payload is left as it should be; see differences.py."""


def strings(*texts: str) -> bytes:
    """Arguments as they go over the wire."""
    return b"".join(text.encode() + b"\0" for text in texts)


WITHOUT_PATH: Final = {
    XsMsgType.TRANSACTION_START: [b"\0"],
    XsMsgType.TRANSACTION_END: [b"T\0"] * 20 + [b"F\0"] * 6 + [b"X\0", b"T"],
    XsMsgType.RESET_WATCHES: [b"\0"],
    XsMsgType.GET_DOMAIN_PATH: [strings(number) for number in NUMBERS],
    XsMsgType.IS_DOMAIN_INTRODUCED: [strings(number) for number in NUMBERS],
    XsMsgType.RELEASE: [strings(number) for number in ("1", "2", "3", "1", "2", "3", "0", "7", "x")],
    XsMsgType.RESUME: [strings(number) for number in ("1", "2", "3", "1", "2", "3", "0", "7", "x")],
    XsMsgType.SET_TARGET: [strings("1", "2"), strings("2", "3"), strings("3", "1"), strings("1", "7"), strings("1")],
    XsMsgType.INTRODUCE: [strings(domid, "1", port) for domid in "1237" for port in ("1", "1", "1", "0", "-3")],
    XsMsgType.CONTROL: [strings(*command.split(" ")) for command in COMMANDS],
}
