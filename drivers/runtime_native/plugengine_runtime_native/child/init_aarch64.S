// init PID: pass signals on to PID, reap every child, exit as PID did. All signals are blocked when it starts.
// Calls of include/uapi/asm-generic/unistd.h; the bytes are in native.py.
	.globl	_start
_start:
	ldr	x20, [sp, #16]		// argv[1]
	mov	w1, #0x6e69		// "in"
	movk	w1, #0x7469, lsl #16	// "it"
	stp	x1, xzr, [sp, #-16]!
	mov	x0, #15
	mov	x1, sp
	mov	x8, #167		// prctl(PR_SET_NAME, "init")
	svc	#0
	mov	x0, x20
	mov	w19, #0			// PID
	mov	w2, #10
digit:
	ldrb	w1, [x0], #1
	cbz	w1, ready
	sub	w1, w1, #48
	madd	w19, w19, w2, w1
	b	digit
ready:
	mov	x1, #-1			// every signal
	stp	x1, xzr, [sp, #-16]!	// [sp, #8]: status of wait4
wait:
	mov	x0, sp
	mov	x1, #0
	mov	x2, #0
	mov	x3, #8
	mov	x8, #137		// rt_sigtimedwait(set, NULL, NULL, 8)
	svc	#0
	cmn	w0, #4			// EINTR
	b.eq	wait
	tbnz	w0, #31, broken
	cmp	w0, #17			// SIGCHLD
	b.eq	reap
	mov	w1, w0
	mov	w0, w19
	mov	x8, #129		// kill(PID, signal)
	svc	#0
	b	wait
reap:
	mov	x0, #-1
	add	x1, sp, #8
	mov	x2, #1			// WNOHANG
	mov	x3, #0
	mov	x8, #260		// wait4(-1, &status, WNOHANG, NULL)
	svc	#0
	cmp	w0, #0
	b.le	wait
	cmp	w0, w19
	b.ne	reap
	ldr	w1, [sp, #8]
	ands	w0, w1, #0x7f		// WTERMSIG
	b.ne	signalled
	ubfx	w0, w1, #8, #8		// WEXITSTATUS
	b	exit
signalled:
	add	w0, w0, #128
	b	exit
broken:
	mov	w0, #125
exit:
	mov	x8, #94			// exit_group(code)
	svc	#0
