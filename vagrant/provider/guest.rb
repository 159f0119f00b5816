# frozen_string_literal: true

require "fileutils"
require "json"
require "securerandom"
require "shellwords"
require "socket"
require "tmpdir"

require_relative "accelerator"
require_relative "qmp"

module Vexrun
  # One QEMU with its disks and snapshots, kept in Vagrant's data directory of the machine.
  #
  # What is started is not decided here: a description says it (docs/vagrant.md, "The machine
  # description"). The box carries one, made by the code that makes vexrun's own machines; vexrun
  # writes another for its tests.
  class Guest
    FORMAT = 1
    SOURCE_MOUNT = "/mnt/vexfs-src"

    def initialize(data_dir)
      @data_dir = data_dir.to_s
    end

    # -- making and deleting ---------------------------------------------------------------

    # The new machine's name. `given` is the path of vexrun's description, nil for the box's.
    def create(box, given)
      path = given || File.join(box.to_s, "machine.json")
      description = read(path)
      unless description["format"] == FORMAT
        raise Errors::Refused, "'#{path}' is not a machine description of format #{FORMAT}."
      end
      name = description["name"] || "vexrun-#{SecureRandom.hex(4)}"
      run = description["run"] || File.join(socket_place, name).tap { |place| Dir.mkdir(place, 0o700) }
      write("instance.json", "name" => name, "box" => box.to_s, "run" => run, "description" => path)
      name
    end

    def delete
      stop
      FileUtils.rm_rf(instance["run"]) if instance && read(instance["description"], {})["run"].nil?
      %w[instance.json started.json snapshots disks qemu.log console.log].each do |name|
        FileUtils.rm_rf(path(name))
      end
    end

    # -- starting and stopping -------------------------------------------------------------

    def start(settings)
      description = fill(read(instance["description"]), settings)
      description["disks"].each { |disk| make_disk(disk) unless File.exist?(disk["path"]) }
      launch(description)
    end

    # End QEMU at once.
    def stop
      pid = alive
      return if pid.nil?

      Process.kill(:KILL, pid)
      sleep 0.02 while alive
    rescue Errno::ESRCH
      nil # it ended by itself
    end

    def state
      return :not_created if instance.nil?
      return :poweroff if alive.nil?

      case status
      when "shutdown" then :poweroff
      when "paused", "postmigrate", "finish-migrate", "io-error" then :paused
      else :running
      end
    end

    def ssh
      started = read(path("started.json"), nil)
      started && started["ssh"]
    end

    def source_mount
      read(path("started.json"))["source_mount"]
    end

    def console
      read(path("started.json"))["console"]
    end

    # -- snapshots -------------------------------------------------------------------------

    def snapshots
      Dir.children(path("snapshots")).select { |name| File.file?(path("snapshots", name, "started.json")) }.sort
    rescue Errno::ENOENT
      []
    end

    # RAM, devices and disks; the guest stands still meanwhile. 9p must not be mounted: QEMU
    # refuses to save then.
    def save(name)
      raise Errors::Refused, "'#{name}' cannot be the name of a snapshot." unless name.match?(/\A\w[\w.-]*\z/)

      FileUtils.rm_rf(path("snapshots", name))
      FileUtils.mkdir_p(path("snapshots", name))
      begin
        started = save_into(path("snapshots", name))
      rescue StandardError
        FileUtils.rm_rf(path("snapshots", name))
        raise
      end
      # Last: only with it there is a snapshot.
      write(File.join("snapshots", name, "started.json"), started)
    end

    def restore(name)
      stop
      directory = path("snapshots", name)
      started = read(File.join(directory, "started.json"))
      started["writable"].each { |disk| copy(File.join(directory, File.basename(disk)), disk) }
      File.open(File.join(directory, "state")) { |state| launch(started, state) }
    end

    def forget(name)
      FileUtils.rm_rf(path("snapshots", name))
    end

    private

    def instance
      read(path("instance.json"), nil)
    end

    # The QEMU whose -name is ours; a remembered number alone may be somebody else's by now, and is
    # not there yet when `vagrant up` was killed in the middle.
    def alive
      started = read(path("started.json"), nil)
      return nil if started.nil?
      return started["pid"] if started["pid"] && ours?(started["pid"])

      Dir.glob("[0-9]*", base: "/proc").map(&:to_i).find { |pid| ours?(pid) } if started["pid"].nil?
    end

    def ours?(pid)
      words = File.binread("/proc/#{pid}/cmdline").split("\0")
      index = words.index("-name")
      !index.nil? && words[index + 1].to_s.start_with?("#{instance["name"]},") && words[0].include?("qemu")
    rescue Errno::ENOENT, Errno::ESRCH, Errno::EACCES
      false
    end

    def status
      monitor { |qmp| qmp.execute("query-status")["status"] }
    rescue Errno::ENOENT, Errno::ECONNREFUSED, Qmp::Error
      alive ? "mute" : "shutdown"
    end

    def monitor(&block)
      Qmp.open(read(path("started.json"))["control"], &block)
    end

    # -- QEMU ------------------------------------------------------------------------------

    def launch(description, state = nil)
      attempts = 3
      attempts.times do |attempt|
        said = try_to_launch(description, state)
        return if said.nil?

        # Another process took the port between our look and QEMU's bind.
        taken = said.include?("Could not set up host forwarding")
        raise Errors::QemuFailed, said unless taken && attempt < attempts - 1
      end
    end

    # nil, or what QEMU said when it ended instead of running.
    def try_to_launch(description, state)
      port = free_port
      started = substitute(description, "port" => port.to_s)
      started["ssh"]["port"] = port
      # Resolved here, kept unresolved for the next start.
      write("started.json", started.merge("pid" => nil))
      pid = spawn_qemu(started, state)
      write("started.json", description.merge("pid" => pid, "ssh" => started["ssh"]))
      wait_until_running(pid, state) ? nil : File.read(started["log"])
    end

    def spawn_qemu(started, state)
      FileUtils.mkdir_p(File.dirname(started["control"]))
      argv = started["argv"]
      options = { in: File::NULL, %i[out err] => [started["log"], "w"], close_others: true }
      held = started["holds"].map do |lock|
        File.open(lock, "a").tap { |file| file.flock(File::LOCK_SH) }
      end
      # QEMU inherits the locks: they last exactly as long as it does.
      held.each { |file| options[file.fileno] = file.fileno }
      unless state.nil?
        options[state.fileno] = state.fileno
        argv += ["-incoming", "fd:#{state.fileno}"]
      end
      # Not a process group of ours: QEMU must not hear the Ctrl-C that ends `vagrant`.
      pid = Process.spawn("setsid", *argv, options)
      Process.detach(pid)
      pid
    ensure
      held&.each(&:close)
    end

    def wait_until_running(pid, state)
      deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 120
      while Process.clock_gettime(Process::CLOCK_MONOTONIC) < deadline
        return false unless File.exist?("/proc/#{pid}") && !zombie?(pid)

        case alive && status
        when "running" then return true
        when "paused" then monitor { |qmp| qmp.execute("cont") } if state
        end
        sleep 0.05
      end
      stop
      raise Errors::QemuFailed, "QEMU did not begin to run within 120 s."
    end

    def zombie?(pid)
      File.read("/proc/#{pid}/stat").rpartition(")").last.split.first == "Z"
    rescue Errno::ENOENT, Errno::ESRCH
      true
    end

    def save_into(directory)
      started = read(path("started.json"))
      monitor do |qmp|
        qmp.execute("stop")
        begin
          write_state(qmp, File.join(directory, "state"))
          started["writable"].each { |disk| copy(disk, File.join(directory, File.basename(disk))) }
        ensure
          qmp.execute("cont")
        end
      end
      started
    end

    # A file rather than savevm: any number of starts can read it.
    def write_state(qmp, destination)
      qmp.execute("migrate-set-parameters", max_bandwidth: 16 * 2**30)
      File.open(destination, "wb") { |file| qmp.send_file(file, "state") }
      qmp.execute("migrate", uri: "fd:state")
      600.times do
        progress = qmp.execute("query-migrate")
        return if progress["status"] == "completed"
        if %w[failed cancelled].include?(progress["status"])
          raise Errors::Refused, "QEMU could not save the machine: #{progress["error-desc"]}"
        end

        sleep 0.2
      end
      raise Errors::Refused, "QEMU did not save the machine within 120 s."
    end

    # -- disks -----------------------------------------------------------------------------

    def make_disk(disk)
      FileUtils.mkdir_p(File.dirname(disk["path"]))
      if disk["backing"]
        run!("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk["backing"], disk["path"])
      elsif disk["random"]
        File.open("/dev/urandom", "rb") { |noise| IO.copy_stream(noise, disk["path"], disk["size"]) }
      else
        File.open(disk["path"], "wb") { |file| file.truncate(disk["size"]) }
      end
    end

    def copy(from, to)
      run!("cp", "--reflink=auto", "--sparse=always", from, to)
    end

    def run!(*argv)
      said = IO.popen([*argv, { err: %i[child out] }], &:read)
      return if $?.success?

      raise Errors::Refused, "'#{Shellwords.join(argv)}' failed: #{said}"
    end

    # -- descriptions ----------------------------------------------------------------------

    # Every value of the description that is known before a start.
    def fill(description, settings)
      values = {
        "name" => instance["name"], "box" => instance["box"], "run" => instance["run"],
        "data" => @data_dir, "source" => settings.source.to_s,
        "memory" => (settings.memory || description["memory_mib"]).to_s,
        "cpus" => (settings.cpus || description["cpus"]).to_s
      }
      if description["argv"].any? { |word| word.include?("@accel@") }
        kernel = substitute(description["kernel"], values)
        row = Accelerator.choose(settings.accelerator.to_s, description["accelerators"], kernel)
        values.merge!("accel" => row["accel"], "cpu" => row["cpu"])
      end
      substitute(description, values)
    end

    # Replace every @key@ in every text of it.
    def substitute(part, values)
      case part
      when Hash then part.transform_values { |value| substitute(value, values) }
      when Array then part.map { |value| substitute(value, values) }
      when String
        part.gsub(/@([a-z]+)@/) do |token|
          value = values[Regexp.last_match(1)]
          value.nil? ? token : quote(value, part)
        end
      else part
      end
    end

    # As the text it goes into wants it: JSON escapes, and key=value options double a comma.
    def quote(value, text)
      return JSON.generate(value)[1..-2] if text.start_with?("{")

      text.match?(/\A[a-z0-9_,-]+=/) || text.include?(",") ? value.gsub(",", ",,") : value
    end

    def free_port
      server = TCPServer.new("127.0.0.1", 0)
      server.addr[1]
    ensure
      server&.close
    end

    # The path of a socket has 107 bytes, of which its directory's and its own name take 40.
    def socket_place
      places = [Dir.tmpdir, ENV["XDG_RUNTIME_DIR"], "/tmp"].compact
      places.find { |place| place.bytesize + 40 <= 107 && File.writable?(place) } ||
        raise(Errors::Refused, "There is no place for sockets in #{places.join(", ")}: set TMPDIR to a short path.")
    end

    # -- files -----------------------------------------------------------------------------

    def path(*names)
      File.join(@data_dir, *names)
    end

    def read(file, *otherwise)
      JSON.parse(File.read(file))
    rescue Errno::ENOENT
      raise if otherwise.empty?

      otherwise.first
    end

    def write(name, content)
      temporary = path("#{name}.new")
      File.write(temporary, JSON.pretty_generate(content))
      File.rename(temporary, path(name))
    end
  end
end
