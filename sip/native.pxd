# The few primitives of the core that are C: two system calls, two views of bytes, a table of numbers.
# Nothing else in the core has a pointer. native.py says what each does.
from cpython.bytearray cimport (
    PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_GET_SIZE, PyByteArray_Resize,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memset

cdef extern from "<errno.h>" nogil:
    int errno
    enum: EAGAIN
    enum: ENOBUFS

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_DONTWAIT
    struct sockaddr:
        pass
    struct sockaddr_storage:
        pass
    Py_ssize_t recvfrom(int, void *, size_t, int, sockaddr *, unsigned int *)
    Py_ssize_t sendto(int, const void *, size_t, int, const sockaddr *, unsigned int)

cdef inline object receive(object udp, int fd):
    cdef sockaddr_storage peer
    cdef unsigned int size
    cdef unsigned char into[65536]
    cdef Py_ssize_t got
    cdef int tries
    for tries in range(64):
        size = sizeof(peer)
        got = recvfrom(fd, into, 65536, MSG_DONTWAIT, <sockaddr *>&peer, &size)
        if got >= 0:
            return (
                PyBytes_FromStringAndSize(<char *>into, got),
                PyBytes_FromStringAndSize(<char *>&peer, min(size, <unsigned int>sizeof(peer))),
            )
        if errno == EAGAIN:
            return None
    return None

cdef inline bint transmit(object udp, int fd, bytes data, bytes source) except -1:
    if data is None or source is None:
        raise TypeError("nothing to send, or nobody to send it to")
    cdef Py_ssize_t sent = sendto(
        fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_DONTWAIT,
        <const sockaddr *>PyBytes_AS_STRING(source), <unsigned int>PyBytes_GET_SIZE(source),
    )
    # A full buffer is a datagram lost, as any other: it is repeated.
    return sent >= 0 or errno == EAGAIN or errno == ENOBUFS

cdef inline bytes cut(bytes data, Py_ssize_t start, Py_ssize_t end):
    if data is None or start < 0 or start > end or end > PyBytes_GET_SIZE(data):
        raise IndexError("slice outside the message")
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start, end - start)

cdef inline Py_ssize_t seek(bytes data, int c, Py_ssize_t start, Py_ssize_t end) except -1:
    if data is None or start < 0 or start > end or end > PyBytes_GET_SIZE(data):
        raise IndexError("outside the message")
    cdef const char *p = PyBytes_AS_STRING(data)
    cdef const char *hit = <const char *>memchr(p + start, c, end - start)
    return hit - p if hit is not NULL else end

cdef inline bytearray room(Py_ssize_t numbers):
    if numbers < 0 or numbers > 65536:
        raise IndexError("no such table")
    cdef bytearray table = PyByteArray_FromStringAndSize(NULL, numbers * <Py_ssize_t>sizeof(int))
    memset(PyByteArray_AS_STRING(table), 0, numbers * sizeof(int))
    return table

cdef inline int widen(bytearray table, Py_ssize_t numbers) except -1:
    if table is None or numbers < 0 or numbers > 65536:
        raise IndexError("no such table")
    cdef Py_ssize_t before = PyByteArray_GET_SIZE(table)
    cdef Py_ssize_t after = numbers * <Py_ssize_t>sizeof(int)
    if after > before:
        PyByteArray_Resize(table, after)
        memset(PyByteArray_AS_STRING(table) + before, 0, after - before)
    return 0

cdef inline int at(bytearray table, Py_ssize_t place) except? -9:
    if table is None or place < 0 or place >= PyByteArray_GET_SIZE(table) // <Py_ssize_t>sizeof(int):
        raise IndexError("outside the table")
    return (<int *>PyByteArray_AS_STRING(table))[place]

cdef inline int note(bytearray table, Py_ssize_t place, int number) except -1:
    if table is None or place < 0 or place >= PyByteArray_GET_SIZE(table) // <Py_ssize_t>sizeof(int):
        raise IndexError("outside the table")
    (<int *>PyByteArray_AS_STRING(table))[place] = number
    return 0
