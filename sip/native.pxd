# The few primitives of the core that are C: two system calls, two views of bytes. Nothing else in
# the core has a pointer. native.py says what each does.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr

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

cdef inline Py_ssize_t seek(bytes data, int c, Py_ssize_t start) except -1:
    if data is None or start < 0 or start > PyBytes_GET_SIZE(data):
        raise IndexError("outside the message")
    cdef const char *p = PyBytes_AS_STRING(data)
    cdef const char *hit = <const char *>memchr(p + start, c, PyBytes_GET_SIZE(data) - start)
    return hit - p if hit is not NULL else PyBytes_GET_SIZE(data)

ctypedef unsigned char Kinds[336]
ctypedef int Offsets[336]
