# A cloud image, provisioned with vexrun's roles in the machine it boots (docs/packer.md).
#
#   packer/build.sh local -var image=debian-13-generic-amd64.qcow2 -var checksum=sha512:DIGEST
#
# Written for Packer 1.6.6 as well: no required_plugins here, and no {{user `x`}}, which that one
# validates and then cannot run.

variable "image" {
  type        = string
  default     = "cloud.qcow2"
  description = "Source 'local': a cloud image with cloud-init, as a file."
}

variable "checksum" {
  type        = string
  default     = "none"
  description = "Of 'image': sha256:DIGEST, sha512:DIGEST or none."
}

variable "ubuntu_url" {
  type    = string
  default = "https://cloud-images.ubuntu.com/releases/jammy/release/ubuntu-22.04-server-cloudimg-amd64.img"
}

variable "ubuntu_checksum" {
  type    = string
  default = "file:https://cloud-images.ubuntu.com/releases/jammy/release/SHA256SUMS"
}

variable "memory" {
  type        = number
  default     = 4096
  description = "MiB."
}

variable "cpus" {
  type    = number
  default = 4
}

variable "disk_size" {
  type        = string
  default     = "20G"
  description = "What the disk grows to; cloud-init grows the root filesystem with it."
}

variable "accelerator" {
  type        = string
  default     = "kvm"
  description = "'tcg' where 'vexrun doctor' says that KVM does not work."
}

variable "source_dir" {
  type        = string
  default     = ""
  description = "Shared read-only as 9p with the tag vexfs-src and mounted at /mnt/vexfs-src."
}

variable "output" {
  type        = string
  default     = "packer-output"
  description = "Directory of the result, which must not exist; the console's log lies beside it."
}

variable "seed" {
  type        = string
  default     = "packer-seed"
  description = "Made by seed.sh: the key, and http/ with the cloud-init seed."
}

variable "ansible_variables" {
  type        = map(string)
  default     = {}
  description = "More variables for the roles."
}

locals {
  root = abspath("${path.root}/..")
  # Packer's own forwarding listens on every interface of this machine.
  network = "user,id=user.0,hostfwd=tcp:127.0.0.1:{{ .SSHHostPort }}-:22"
  # The seed comes over HTTP: Debian's cloud kernel has no driver for a CD.
  seed  = "type=1,serial=ds=nocloud-net;s=http://{{ .HTTPIP }}:{{ .HTTPPort }}/"
  share = "local,path=${var.source_dir},mount_tag=vexfs-src,security_model=none,readonly=on"
  arguments = concat(
    [
      # Not the VNC server that headless means to Packer.
      ["-vnc", "none"],
      ["-display", "none"],
      ["-cpu", var.accelerator == "kvm" ? "host" : "max"],
      ["-netdev", local.network],
      ["-smbios", local.seed],
      ["-serial", "file:${var.output}.console.log"],
    ],
    var.source_dir == "" ? [] : [["-virtfs", local.share]],
  )
  role_variables = {
    # The image keeps its own disk, with a label of its own; an import names ours.
    guest_base_fstab_root = ""
    # What an image knows of packages is older than the mirror.
    vexrun_apt_cache_valid_time = 0
    toolchain_rust_method       = "distro"
    # Without a share the mount is named in fstab, and made when there is one.
    source_mount_in_image = var.source_dir == ""
  }
}

source "qemu" "vexfs" {
  disk_image           = true
  format               = "qcow2"
  accelerator          = var.accelerator
  memory               = var.memory
  cpus                 = var.cpus
  disk_size            = var.disk_size
  disk_interface       = "virtio"
  disk_cache           = "unsafe"
  disk_discard         = "unmap"
  net_device           = "virtio-net"
  headless             = true
  disable_vnc          = true
  boot_wait            = "0s"
  qemuargs             = local.arguments
  http_directory       = "${var.seed}/http"
  http_bind_address    = "127.0.0.1"
  output_directory     = var.output
  communicator         = "ssh"
  host_port_min        = 20000
  host_port_max        = 30000
  ssh_username         = "root"
  ssh_timeout          = "30m"
  shutdown_command     = "systemctl poweroff"
  shutdown_timeout     = "10m"
  ssh_private_key_file = "${var.seed}/key"
}

build {
  source "source.qemu.vexfs" {
    name         = "local"
    iso_url      = var.image
    iso_checksum = var.checksum
    vm_name      = "vexfs-local.qcow2"
  }

  source "source.qemu.vexfs" {
    name         = "ubuntu"
    iso_url      = var.ubuntu_url
    iso_checksum = var.ubuntu_checksum
    vm_name      = "vexfs-ubuntu.qcow2"
  }

  # ssh answers before cloud-init has made room on the disk. 2: done, with warnings, such as that
  # 'nocloud-net' is an old name (from 24.1 on; until 22.4 it is the only one).
  provisioner "shell" {
    inline           = ["df -h /", "cloud-init status --wait --long"]
    valid_exit_codes = [0, 2]
  }

  # The play for virtual machines of playbooks/provision.yml, which every guest gets. Its other
  # plays are for other groups, and --limit keeps this machine (group host) out.
  provisioner "ansible" {
    playbook_file = "${local.root}/playbooks/provision.yml"
    groups        = ["vm"]
    # Straight to the guest: the proxy signs with ssh-rsa, which OpenSSH 8.8 and newer refuse.
    use_proxy = false
    ansible_env_vars = [
      "ANSIBLE_CONFIG=${local.root}/ansible.cfg",
      # Nobody knows the host key of a machine that was just made, nor shall: it is on 127.0.0.1.
      "ANSIBLE_HOST_KEY_CHECKING=False",
      "ANSIBLE_SSH_COMMON_ARGS=-o UserKnownHostsFile=/dev/null",
    ]
    extra_arguments = [
      "--inventory", "${local.root}/inventory/hosts.yml",
      "--limit", "vm",
      "--extra-vars", "@${local.root}/packer/${source.name}.yml",
      "--extra-vars", jsonencode(local.role_variables),
      "--extra-vars", jsonencode(var.ansible_variables),
    ]
  }

  provisioner "shell" {
    script           = "${path.root}/finish.sh"
    environment_vars = ["BUILT_BY=Packer ${packer.version}, ${source.name}"]
  }

  # For 'vexrun image import --sha256'. 1.6.6 says the name of the source block for BuildName.
  post-processor "checksum" {
    checksum_types = ["sha256"]
    output         = "${var.output}/vexfs-${source.name}.{{.ChecksumType}}"
  }
}
