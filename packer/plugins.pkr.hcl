# Packer 1.7 and newer load these builders from outside: packer init packer/plugins.pkr.hcl
# A file of its own, because Packer 1.6 (Debian's) has them built in and refuses the block.
packer {
  required_plugins {
    ansible = {
      source  = "github.com/hashicorp/ansible"
      version = ">= 1.1.0"
    }
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.1.0"
    }
  }
}
