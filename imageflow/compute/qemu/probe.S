# A boot sector that goes to long mode, counts to 16 million, says 'K' to the debug console and resets.
# Its bytes are in accelerator.py:  as -o p.o probe.S && ld -Ttext=0x7c00 --oformat binary -e _start -o p.bin p.o
.code16
.globl _start
_start:
  cli
  xorw %ax,%ax
  movw %ax,%ds
  movw %ax,%es
  movw %ax,%ss
  movw $0x7000,%sp
  # page tables at 0x1000 (pml4) 0x2000 (pdpt) 0x3000 (pd, 2M page)
  movw $0x1000,%di
  movw $0x1800,%cx
  rep stosw
  movl $0x2003,0x1000
  movl $0x3003,0x2000
  movl $0x0083,0x3000
  movl $0x1000,%eax
  movl %eax,%cr3
  movl %cr4,%eax
  orl $0x20,%eax
  movl %eax,%cr4
  movl $0xC0000080,%ecx
  rdmsr
  orl $0x100,%eax
  wrmsr
  lgdt gdtr
  movl %cr0,%eax
  orl $0x80000001,%eax
  movl %eax,%cr0
  ljmp $8,$lm
.code64
lm:
  movw $16,%ax
  movw %ax,%ss
  movl $0x1000000,%ecx
1: decl %ecx
  jnz 1b
  movb $0x4b,%al
  outb %al,$0xe9
  movb $0xfe,%al
  outb %al,$0x64
2: hlt
  jmp 2b
.align 8
gdt: .quad 0, 0x00209a0000000000, 0x0000920000000000
gdtr: .word .-gdt-1
  .long gdt
.org 510
.word 0xaa55
