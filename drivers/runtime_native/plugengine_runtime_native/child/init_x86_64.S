# init PID: pass signals on to PID, reap every child, exit as PID did. All signals are blocked when it starts.
# Calls of arch/x86/entry/syscalls/syscall_64.tbl; the bytes are in native.py.
	.globl	_start
_start:
	mov	16(%rsp), %r8		# argv[1]
	pushq	$0x74696e69		# "init"
	mov	$15, %edi
	mov	%rsp, %rsi
	mov	$157, %eax		# prctl(PR_SET_NAME, "init")
	syscall
	mov	%r8, %rdi
	xor	%ebx, %ebx		# PID
digit:
	movzbl	(%rdi), %eax
	test	%eax, %eax
	jz	ready
	imul	$10, %ebx, %ebx
	lea	-48(%rbx,%rax), %ebx
	inc	%rdi
	jmp	digit
ready:
	pushq	$0			# (%rsp): status of wait4
	pushq	$-1			# every signal
wait:
	mov	%rsp, %rdi
	xor	%esi, %esi
	xor	%edx, %edx
	mov	$8, %r10d
	mov	$128, %eax		# rt_sigtimedwait(set, NULL, NULL, 8)
	syscall
	cmp	$-4, %eax		# EINTR
	je	wait
	mov	$125, %edi
	test	%eax, %eax
	js	exit
	cmp	$17, %eax		# SIGCHLD
	je	reap
	mov	%ebx, %edi
	mov	%eax, %esi
	mov	$62, %eax		# kill(PID, signal)
	syscall
	jmp	wait
reap:
	mov	$-1, %rdi
	lea	8(%rsp), %rsi
	mov	$1, %edx		# WNOHANG
	xor	%r10d, %r10d
	mov	$61, %eax		# wait4(-1, &status, WNOHANG, NULL)
	syscall
	test	%eax, %eax
	jle	wait
	cmp	%ebx, %eax
	jne	reap
	mov	8(%rsp), %eax
	mov	%eax, %edi
	and	$0x7f, %edi		# WTERMSIG
	jnz	signalled
	movzbl	%ah, %edi		# WEXITSTATUS
	jmp	exit
signalled:
	add	$128, %edi
exit:
	mov	$231, %eax		# exit_group(code)
	syscall
