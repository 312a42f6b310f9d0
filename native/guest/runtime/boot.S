// PVH entry (32-bit, paging off) to long mode, the static page tables and GDT, and the interrupt stubs.
// Nothing here knows a device. Descriptors and page-table entries have their accessed and dirty bits set
// beforehand, so that the processor never writes to them.

    .section .note.Xen, "a", @note
    .align 4
    .long 4, 4, 18                      // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_entry

    .section .note.GNU-stack, "", @progbits

    .section .text.boot, "ax"
    .code32
    .global pvh_entry
pvh_entry:
    cli
    cld
    lgdt gdt_pointer
    movl $page_map_l4, %eax
    movl %eax, %cr3
    movl $0x20, %eax                    // PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx              // EFER
    rdmsr
    orl $0x100, %eax                    // LME
    wrmsr
    movl $0x80000033, %eax              // PG, NE, ET, MP, PE
    movl %eax, %cr0
    ljmp $0x08, $long_entry

    .code64
long_entry:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $kernel_stack_top, %esp
    movl %ebx, %edi
    xorl %ebp, %ebp
    call kernel_start                   // fills IDT and TSS, returns when the payload may run

    // To CPL 3 with interrupts on and IOPL = 3.
    pushq $0x1b
    pushq $user_stack_top
    pushq $0x3202
    pushq $0x23
    pushq $payload_entry
    iretq

payload_entry:
    xorl %ebp, %ebp
    call guest_main
    call power_off

    .text
// The system call: int3 with RAX = function, RDI = argument. It runs that function at CPL 0 with interrupts
// off and gives its result back in RAX; the function keeps to the C calling convention.
    .global system_call_stub
system_call_stub:
    cld
    call *%rax
    iretq

// Interrupt stubs, 16 bytes apart.
    .global irq_stubs
    .align 16
irq_stubs:
    .set line, 0
    .rept 16
    .align 16
    pushq %rdi
    movl $line, %edi
    jmp irq_common
    .set line, line + 1
    .endr
irq_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    cld
    // The interrupted instruction's address: below 2 GiB, as all of this.
    cmpq $idle_halt, 72(%rsp)
    jne 1f
    movq $idle_awake, 72(%rsp)
1:
    call irq_handler
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    popq %rdi
    iretq

// Exception stubs, 16 bytes apart; those without an error code push a zero.
    .global fault_stubs
    .align 16
fault_stubs:
    .set vector, 0
    .rept 32
    .align 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    pushq $0
    .endif
    pushq $vector
    jmp fault_common
    .set vector, vector + 1
    .endr
fault_common:
    pushq %r15
    pushq %r14
    pushq %r13
    pushq %r12
    pushq %r11
    pushq %r10
    pushq %r9
    pushq %r8
    pushq %rbp
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %rbx
    pushq %rax
    cld
    movq %rsp, %rdi
    call fault_handler
    popq %rax
    popq %rbx
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    popq %rbp
    popq %r8
    popq %r9
    popq %r10
    popq %r11
    popq %r12
    popq %r13
    popq %r14
    popq %r15
    addq $16, %rsp
    iretq

    .section .data.tables, "aw"
    .align 4096
    // Identity map of 4 GiB with 2 MiB pages, open to CPL 3.
page_map_l4:
    .quad page_map_l3 + 0x67
    .fill 511, 8, 0
page_map_l3:
    .quad page_map_l2 + 0x67
    .quad page_map_l2 + 0x1067
    .quad page_map_l2 + 0x2067
    .quad page_map_l2 + 0x3067
    .fill 508, 8, 0
    .global page_map_l2
page_map_l2:
    .set address, 0
    .rept 2048
    .quad address + 0xe7
    .set address, address + 0x200000
    .endr

    .align 16
    .global gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            // 08 code, CPL 0
    .quad 0x00cf93000000ffff            // 10 data, CPL 0
    .quad 0x00cff3000000ffff            // 18 data, CPL 3
    .quad 0x00affb000000ffff            // 20 code, CPL 3
    .quad 0, 0                          // 28 task state, filled by kernel_start
gdt_pointer:
    .word 7 * 8 - 1
    .quad gdt

    .section .bss
    .align 4096
    .skip 8192
kernel_stack_top:
    .global kernel_stack_top
    .skip 32768
user_stack_top:
