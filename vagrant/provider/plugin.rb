# frozen_string_literal: true

# Loaded by the Vagrantfile beside it: Debian's vagrant and QEMU are all that is needed, no plugin
# is installed.
require "vagrant"

require_relative "guest"

module Vexrun
  module Errors
    class Base < Vagrant::Errors::VagrantError
      def initialize(said)
        @said = said
        super()
      end

      def error_message
        @said
      end
    end

    # What was asked for cannot be done.
    class Refused < Base; end

    class QemuFailed < Base
      def error_message
        "QEMU did not start. It said:\n\n#{@said.strip}"
      end
    end
  end

  class Config < Vagrant.plugin("2", :config)
    # source: a directory, shared read-only. accelerator: auto, kvm or tcg. description: a file of
    # vexrun's that says what to start, instead of the box's.
    attr_accessor :memory, :cpus, :source, :accelerator, :description

    def initialize
      super
      @memory = @cpus = @source = @accelerator = @description = UNSET_VALUE
    end

    def finalize!
      @memory = nil if @memory == UNSET_VALUE
      @cpus = nil if @cpus == UNSET_VALUE
      @description = nil if @description == UNSET_VALUE
      @accelerator = "auto" if @accelerator == UNSET_VALUE
      @source = Dir.pwd if @source == UNSET_VALUE
    end

    def validate(_machine)
      errors = []
      errors << "source: '#{@source}' is not a directory" unless File.directory?(@source.to_s)
      unless %w[auto kvm tcg].include?(@accelerator.to_s)
        errors << "accelerator: '#{@accelerator}' is none of auto, kvm, tcg"
      end
      { "vexrun" => errors }
    end
  end

  class Provider < Vagrant.plugin("2", :provider)
    def self.usable?(raise_error = false)
      return true if Vagrant::Util::Which.which("qemu-system-x86_64") && Vagrant::Util::Which.which("qemu-img")
      return false unless raise_error

      raise Errors::Refused, "QEMU is not installed. " \
        "Run: sudo apt-get install --no-install-recommends qemu-system-x86 qemu-utils"
    end

    def initialize(machine)
      @machine = machine
    end

    def guest
      Guest.new(@machine.data_dir)
    end

    def action(name)
      method = "action_#{name}"
      Actions.respond_to?(method) ? Actions.send(method) : nil
    end

    def ssh_info
      return nil unless state.id == :running

      given = guest.ssh
      { host: "127.0.0.1", port: given["port"], username: given["user"], private_key_path: given["key"] }
    end

    LONG = {
      running: "The machine is up; its console is in '%s'.",
      poweroff: "The machine is off. `vagrant up` boots it again, with its disks as they are.",
      paused: "QEMU has stopped the guest; `vagrant destroy` ends it."
    }.freeze

    def state
      id = @machine.id.nil? ? :not_created : guest.state
      id = Vagrant::MachineState::NOT_CREATED_ID if id == :not_created
      long = format(LONG.fetch(id, "There is no machine. `vagrant up` makes one."), id == :running ? guest.console : "")
      Vagrant::MachineState.new(id, id.to_s.tr("_", " "), long)
    end

    def to_s
      "QEMU (#{@machine.id || "new"})"
    end
  end

  module Actions
    include Vagrant::Action::Builtin

    # A middleware of one step.
    def self.step(&block)
      Class.new do
        define_method(:initialize) { |app, _env| @app = app }
        define_method(:call) do |env|
          block.call(env, env[:machine].provider.guest)
          @app.call(env)
        end
      end
    end

    Create = step do |env, guest|
      machine = env[:machine]
      machine.id = guest.create(machine.box&.directory, machine.provider_config.description)
    end
    Start = step do |env, guest|
      env[:ui].output("Starting QEMU...")
      guest.start(env[:machine].provider_config)
    end
    Stop = step { |_env, guest| guest.stop }
    Delete = step do |env, guest|
      env[:ui].output("Deleting the machine and its disks...")
      guest.delete
      env[:machine].id = nil
    end
    # The box has the share in its fstab, but a box of another make may not.
    MountSource = step do |env, guest|
      place = guest.source_mount
      env[:machine].communicate.sudo("mountpoint -q #{place} || mount #{place}") if place
    end
    SnapshotSave = step do |env, guest|
      place = guest.source_mount
      sudo = env[:machine].communicate.method(:sudo)
      if place
        # QEMU refuses to save a machine whose share is in use.
        sudo.call("! mountpoint -q #{place} || umount #{place}; sync; echo 3 >/proc/sys/vm/drop_caches")
      end
      guest.save(env[:snapshot_name])
      sudo.call("mount #{place}") if place
    end
    SnapshotRestore = step do |env, guest|
      guest.restore(env[:snapshot_name])
      env[:source_mount] = guest.source_mount
    end
    # In the snapshot it was the time when it was taken.
    SetClock = step do |env, _guest|
      env[:machine].communicate.sudo(format("date -s @%.3f >/dev/null", Time.now.to_f))
    end
    SnapshotDelete = step { |env, guest| guest.forget(env[:snapshot_name]) }

    def self.build(&block)
      Vagrant::Action::Builder.new.tap(&block)
    end

    # `block` for a machine that exists, a sentence for one that does not.
    def self.existing(&block)
      build do |b|
        b.use ConfigValidate
        b.use Call, IsState, Vagrant::MachineState::NOT_CREATED_ID do |env, inner|
          if env[:result]
            inner.use Message, I18n.t("vagrant.commands.common.vm_not_created")
          else
            block.call(inner)
          end
        end
      end
    end

    def self.action_up
      build do |b|
        b.use HandleBox
        b.use ConfigValidate
        b.use BoxCheckOutdated
        b.use Call, IsState, Vagrant::MachineState::NOT_CREATED_ID do |env, inner|
          inner.use Create if env[:result]
        end
        b.use action_start
      end
    end

    def self.action_start
      build do |b|
        b.use Call, IsState, :running do |env, inner|
          next if env[:result]

          inner.use Stop # a QEMU that waits after its guest went down
          inner.use Provision
          inner.use SyncedFolders
          inner.use Start
          inner.use WaitForCommunicator, [:running]
          inner.use MountSource
        end
      end
    end

    def self.action_halt
      existing do |b|
        b.use Call, GracefulHalt, :poweroff, :running do |_env, inner|
          inner.use Stop
        end
      end
    end

    def self.action_reload
      existing do |b|
        b.use action_halt
        b.use action_start
      end
    end

    def self.action_destroy
      build do |b|
        b.use Call, IsState, Vagrant::MachineState::NOT_CREATED_ID do |env, inner|
          if env[:result]
            inner.use Message, I18n.t("vagrant.commands.common.vm_not_created")
            next
          end
          inner.use Call, DestroyConfirm do |confirmed, last|
            last.use Delete if confirmed[:result]
          end
        end
      end
    end

    def self.action_ssh
      existing { |b| b.use SSHExec }
    end

    def self.action_ssh_run
      existing { |b| b.use SSHRun }
    end

    def self.action_provision
      existing { |b| b.use Provision }
    end

    def self.action_snapshot_save
      existing { |b| b.use SnapshotSave }
    end

    def self.action_snapshot_restore
      existing do |b|
        b.use SnapshotRestore
        # Who has no mount of ours sets clock and mounts himself, over a connection of his own.
        b.use Call, IsEnvSet, :source_mount do |env, inner|
          next unless env[:result]

          inner.use WaitForCommunicator, [:running]
          inner.use SetClock
          inner.use MountSource
        end
        b.use Call, IsEnvSet, :snapshot_delete do |env, inner|
          inner.use SnapshotDelete if env[:result]
        end
      end
    end

    def self.action_snapshot_delete
      existing { |b| b.use SnapshotDelete }
    end
  end

  module Capabilities
    def self.snapshot_list(machine)
      machine.provider.guest.snapshots
    end
  end

  class Plugin < Vagrant.plugin("2")
    name "vexrun"
    description "Plain QEMU with user networking, a read-only 9p share and snapshots."

    # The boxes of vagrant-libvirt: a qcow2 disk.
    provider(:vexrun, box_format: "libvirt", priority: 10) { Provider }
    config(:vexrun, :provider) { Config }
    provider_capability(:vexrun, :snapshot_list) { Capabilities }
  end
end
