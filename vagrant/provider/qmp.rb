# frozen_string_literal: true

require "json"
require "socket"
require "timeout"

module Vexrun
  # QEMU's monitor protocol, as much of it as the provider asks for. Events are skipped.
  class Qmp
    class Error < StandardError; end

    # Yields a connected monitor; Errno::* or Qmp::Error when there is none.
    def self.open(path)
      socket = UNIXSocket.new(path)
      monitor = new(socket)
      yield monitor
    ensure
      socket&.close
    end

    def initialize(socket, patience: 30)
      @socket = socket
      @patience = patience
      read # the greeting
      execute("qmp_capabilities")
    end

    def execute(command, **arguments)
      @socket.write(request(command, arguments))
      answer(command)
    end

    # Hand QEMU an open file under a name.
    def send_file(file, name)
      rights = [:SOCKET, :RIGHTS, [file.fileno].pack("i")]
      @socket.sendmsg(request("getfd", fdname: name), 0, nil, rights)
      answer("getfd")
    end

    private

    def request(command, arguments)
      message = { execute: command }
      message[:arguments] = arguments.transform_keys { |key| key.to_s.tr("_", "-") } unless arguments.empty?
      "#{JSON.generate(message)}\n"
    end

    def answer(command)
      loop do
        said = read
        raise Error, "QEMU refused '#{command}': #{said["error"]["desc"]}" if said.key?("error")
        return said["return"] if said.key?("return")
      end
    end

    def read
      raise Error, "QEMU's monitor is mute" unless @socket.wait_readable(@patience)

      line = @socket.gets
      raise Error, "QEMU closed its monitor" if line.nil?

      JSON.parse(line)
    end
  end
end
